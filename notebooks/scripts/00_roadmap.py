# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · The roadmap
#
# This is a path through the papers behind today's image generators. It begins in 2013, with the variational
# auto-encoder, and ends with Stable Diffusion, DALL-E 2, Imagen and what people built around them. It follows the
# article *Diffused about Diffusion Models?* (2022), stop by stop, in its order.
#
# You need Python, a little PyTorch, and basic probability. You need no GPU, and no network once the package is
# installed.
#
# ## First a picture
#
# A diffusion model starts from noise and removes it, a little at a time. Usually a trained network says what the noise
# is. For a small set of points the best possible answer is known in closed form, so we can watch the method work before
# training anything.

# %%
import torch
from IPython.display import Markdown, display

from ddpm_path.exact import FiniteData
from ddpm_path.lab import datasets, plots, roadmap
from ddpm_path.samplers import ancestral
from ddpm_path.schedule import Discrete, linear_betas, uniform_times

generator = torch.Generator().manual_seed(0)
schedule = Discrete.from_betas(linear_betas())  # 1,000 noise levels
data = 2 * datasets.checkerboard(1200, generator)
noise = torch.randn(1200, 2, generator=generator)
times = uniform_times(schedule.T, steps=50)  # 1000, 980, ..., 20, 0
states = ancestral(FiniteData(data).eps_fn(schedule), schedule, noise, times, generator=generator)
seen = {1000: noise} | {state.t: state.x for state in states}
plots.show(
    plots.scatter({f"t = {t}": seen[t] for t in (1000, 200, 100, 40, 0)}, limit=2.8, columns=5, colour=seen[0][:, 0]),
    "Points coloured by where they end: a round cloud of noise at t = 1000 becomes a sharp checkerboard at t = 0.",
)

# %% [markdown]
# **You should see** a cloud turn into a checkerboard in 50 steps. Each point has the colour of the place where it ends:
# watch the colours part, late. **If instead** the last panel is a blur, your installation is broken: run the tests.
#
# One thing this picture hides: the exact answer knows its 1,200 points by heart, and with more steps ends *on* them. A
# trained network should draw new ones. Notebook 04 trains one.
#
# ## How to use the path
#
# - **Go in order.** Each notebook takes one stop: what the paper changed and why, its key equation, the exact truth in
#   one or two dimensions, then images. The article asks for two to three weeks of dedicated effort.
# - **Predict, then run.** Where a notebook asks you to predict, write your answer down first.
# - **Do the exercises.** Fill in a stub and run its cell. `check` says what is wrong. An empty stub never stops a run.
# - **Read the claims.** Each stop measures something its paper claims, at the scale of a laptop, as a *margin*: above 0
#   where true. Two standard errors clear of 0 the claim *holds* or *does not hold at this scale*, else it is
#   *undecided*. All three are results. *Recorded* is what we found before, often on more samples.
#
# In a terminal, `python -m ddpm_path run` executes the whole path and writes pages to `build/path/`;
# `python -m ddpm_path run 03` executes one notebook; `python -m ddpm_path list` shows the table below.
#
# ## The stops
#
# A stop is *built* when its notebooks are there and its claims are measured; until then it is *open*.

# %%
written = {path.stem for path in roadmap.notebooks_folder().glob("*.ipynb")}


def paper_link(paper):
    if paper.arxiv:
        return f"[{paper.authors_year}](https://arxiv.org/abs/{paper.arxiv})"
    return str(paper)


def notebook_link(name):
    return f"[{name}]({name}.ipynb)" if name in written else name


lines = ["| stop | papers | notebooks | state |", "|:--|:--|:--|:--|"]
step = ""
for stop in roadmap.STOPS:
    if stop.step != step:
        step = stop.step
        lines.append(f"| **{step}** | | | |")
    papers = "; ".join(map(paper_link, stop.papers))
    notebooks = ", ".join(map(notebook_link, stop.notebooks))
    state = "**built**" if roadmap.is_built(stop, written) else "open"
    lines.append(f"| {stop.title} | {papers} | {notebooks} | {state} |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## One notation
#
# Every paper has its own letters, and some share a letter for different things. Here a noisy image is always
#
# $$x_t = \text{scale}_t \, x_0 + \text{std}_t \, \epsilon, \qquad \epsilon \sim \mathcal N(0, I)$$
#
# where $x_0$ is the data, $\epsilon$ standard normal noise, and a *schedule* answers `scale, std = schedule(t)`. A
# network (or an exact formula) `eps_fn(x, t)` guesses $\epsilon$. The papers write:
#
# | | `scale` | `std` | guess of $\epsilon$ | time |
# |:--|:--|:--|:--|:--|
# | DDPM | $\sqrt{\bar\alpha_t}$ | $\sqrt{1-\bar\alpha_t}$ | $\epsilon_\theta(x_t, t)$ | $1$ to $T$ |
# | DDIM | $\sqrt{\alpha_t}$ | $\sqrt{1-\alpha_t}$ | $\epsilon_\theta^{(t)}(x_t)$ | $1$ to $T$ |
# | score SDE, VP | $e^{-B(t)/2}$ | $\sqrt{1-e^{-B(t)}}$ | $-\text{std} \cdot s_\theta(x, t)$ | $0$ to $1$ |
# | score SDE, VE | $1$ | $\sigma(t)$ | $-\text{std} \cdot s_\theta(x, t)$ | $0$ to $1$ |
# | EDM | $s(t)$ | $s(t)\,\sigma(t)$ | $(x/s - D_\theta)/\sigma$ | $t$, often $\sigma$ itself |
#
# The trap: DDIM's $\alpha_t$ *is* DDPM's $\bar\alpha_t$, the product of $1-\beta_1$ to $1-\beta_t$. So nothing here is
# called `alpha`. $B(t)$ is the integral of $\beta$ from 0 to $t$, $s_\theta$ the *score* (the gradient of the log
# density), $D_\theta$ the guess of the data. EDM's $\sigma$ is our `std / scale`, the number that all of them share.
#
# ## One count of time
#
# Noise levels are $t = 1, \dots, T$, and **$t = 0$ is data**: scale 1, std 0. Much published code counts from 0
# instead, so its `alphas_cumprod[0]` is level 1 here. Samplers go from each time to an *explicit* next one, so the
# last step, to 0, is never a special case.

# %%
for t in (0, 1, 500, 1000):
    scale, std = schedule(t)
    print(f"t = {t:4}: scale {scale:.4f}, std {std:.4f}")

# %% [markdown]
# Next: [`01_vae`](01_vae.ipynb), or at once [`03_ddpm_forward`](03_ddpm_forward.ipynb), how noise enters, and
# [`04_ddpm_reverse`](04_ddpm_reverse.ipynb), how a network takes it out.
