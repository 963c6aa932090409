"""Forward + backward of every method from log-probs and its clip fraction, one thread, against the importable peers.

    .venv-parity/bin/python -m benchmarks.losses [--sizes 16x16 64x512 128x1024] [--repeats 100]

Interleaved: each repeat runs every contender once, in an order that rotates, so that a slow minute of the machine
hits all of them alike. Reported is the median in milliseconds of the thread's CPU time, which a busy neighbour moves
less than the clock on the wall; quote ratios, not milliseconds. Sizes are responses ×
tokens with lengths uniform from 1 to T, float32. The peers also compute the few metrics that they log; ours the clip
fraction, which all of them have. The other diagnostics (docs/diagnostics.md) have no counterpart there: left out.

Ours also puts zeros outside the mask whatever stands there, and lets no NaN within it pass unseen (the edge cases in
docs/parity.md): three passes that peers do not make. Where a method is next to nothing else, as CISPO's one clamp,
that can put the fastest peer ahead.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable

import torch

import algorithms
from algorithms.diagnostics import clip_fraction
from algorithms.m2_mask import paper
from benchmarks import targets
from parity.catalogue import MATCHES, stats_of
from parity.peers import Inputs

SIZES = ["16x16", "64x512", "128x1024"]
PEERS = {"TRL": "trl", "verl": "verl", "Liger": "liger_kernel"}
ALONE = sorted(
    set(algorithms.names()) - {match.name for match in MATCHES if match.main} - {"gspo_token"}
)  # gspo's code
OTHERS = ("m2po paper", "m2po released", "m2po all_tokens_mean", "m2po areal", *ALONE)
Contender = Callable[[], None]


def mini_batch(rows: int, width: int, scale: float = 0.1) -> Inputs:
    """log-ratios N(0, scale²), half of the responses with A>0."""
    generator = torch.Generator().manual_seed(0)

    def noise() -> torch.Tensor:
        return torch.randn(rows, width, generator=generator)

    behaviour = -2 * torch.rand(rows, width, generator=generator)
    current = behaviour + scale * noise()
    lengths = torch.randint(1, width + 1, (rows, 1), generator=generator)
    return Inputs(
        logp=current,
        behaviour=behaviour,
        advantages=torch.where(torch.arange(rows) % 2 == 0, 1.0, -1.0),
        mask=torch.arange(width) < lengths,
        proximal=(behaviour + current) / 2,
        engine=behaviour + 0.01 * noise(),
    )


def fresh(x: Inputs) -> Inputs:
    """The same mini-batch with a leaf of its own."""
    leaf = x.logp.detach().clone().requires_grad_()
    return Inputs(leaf, x.behaviour, x.advantages, x.mask, x.proximal, x.engine)


def ours(loss: algorithms.Algorithm, x: Inputs) -> Contender:
    # Like a peer, the method is given what it needs and no more.
    given = {name: getattr(x, name.removeprefix("logp_")) for name in loss.needs}

    def run() -> None:
        leaf = fresh(x).logp
        stats = algorithms.TokenStats(leaf, x.behaviour, x.advantages, x.mask, **given)
        out = algorithms.compose(loss, stats, metrics=False)
        out.loss.backward()
        clip_fraction(stats, out.token_weights)

    return run


def theirs(peer: Callable[[Inputs], torch.Tensor], x: Inputs) -> Contender:
    def run() -> None:
        peer(fresh(x)).backward()

    return run


def interleave(contenders: dict[str, Contender], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each contender."""
    names = list(contenders)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats + 2):
        for offset in range(len(names)):
            name = names[(repeat + offset) % len(names)]
            start = time.thread_time()
            contenders[name]()
            if repeat >= 2:  # warm-up
                taken[name].append(time.thread_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def against_peers(size: str, x: Inputs, repeats: int) -> dict[str, float]:
    """Of every method that a peer has, the time of the fastest peer that is importable over ours."""
    ahead = {}
    for match in (m for m in MATCHES if m.main):
        contenders = {"LagRange": ours(match.method, x)}
        for name, build in match.peers.items():
            try:
                contenders[name] = theirs(build(), x)
            except ImportError:
                continue
        medians = interleave(contenders, repeats)
        fastest = min((t for name, t in medians.items() if name != "LagRange"), default=float("nan"))
        ahead[match.label] = fastest / medians["LagRange"]
        times = [f"{1e3 * medians[name]:.3f}" if name in medians else "–" for name in ("LagRange", *PEERS)]
        print(f"| {size} | {match.label} | {' | '.join(times)} | {ahead[match.label]:.2f} |", flush=True)
    return ahead


def against_grpo(size: str, rows: int, width: int, repeats: int) -> list[str]:
    """The methods that no peer installed here has, as a multiple of our GRPO; the targets of M2PO, as rows."""
    verdicts = []
    for label, scale, most in (("mean under τ", 0.1, 1.3), ("mask binds", 0.3, 2.5)):
        x = mini_batch(rows, width, scale)
        contenders = {"grpo": ours(algorithms.make("grpo"), x)}
        for variant in ("paper", "released", "all_tokens_mean", "areal"):
            contenders[f"m2po {variant}"] = ours(algorithms.make("m2po", variant=variant), x)
        for name in ALONE:
            contenders[name] = ours(algorithms.make(name), x)
        medians = interleave(contenders, repeats)
        multiples = [f"{medians[name] / medians['grpo']:.2f}" for name in OTHERS]
        print(f"| {size} | {label} | {1e3 * medians['grpo']:.3f} | {' | '.join(multiples)} |", flush=True)
        multiple = medians["m2po paper"] / medians["grpo"]
        verdicts.append(targets.row(f"M2PO against our GRPO at {size}, {label}", [multiple], f"≤ {most}", "×"))
    return verdicts


def authors_loop(m2: torch.Tensor, threshold: float) -> float:
    """The shape of the authors' search: one Python step, with two reads of a tensor, for each sorted value."""
    ordered = m2.sort().values
    total, count = ordered.cumsum(0), len(ordered)
    for k in range(count):
        if float(total[k].item()) + (count - 1 - k) * ordered[k].item() >= count * threshold:
            return ordered[k - 1].item() if k else 0.0
    return float("inf")


def use(_: object) -> None:
    """A contender returns nothing."""


def mask_at_163k(repeats: int) -> str:
    """As a row: our mask (binding, so that it sorts) against a loop of the authors' shape, 160 × 1024 of T."""
    x = mini_batch(160, 1024, 0.3)
    x = Inputs(x.behaviour + (x.logp - x.behaviour).abs(), x.behaviour, torch.ones(160), torch.ones_like(x.mask))
    stats = stats_of(x)
    m2, count = stats.trust_region_m2, stats.trust_region.sum().double()
    values = m2[stats.trust_region]
    medians = interleave(
        {
            "mask": lambda: use(m2 <= paper(m2, count, 0.04)),
            "loop": lambda: use(authors_loop(values, 0.04)),
        },
        repeats,
    )
    print(
        f"\nM2PO's mask at {m2.numel():,} tokens, binding: {1e3 * medians['mask']:.2f} ms; "
        f"loop of the authors' shape {1e3 * medians['loop']:.1f} ms"
    )
    return targets.row(
        "M2PO's mask at 163k tokens: speed of the authors' loop", [medians["loop"] / medians["mask"]], "≥ 100", "×"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="BxT")
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes: dict[str, tuple[int, int]] = {}
    for size in options.sizes:
        rows, width = map(int, size.split("x"))
        sizes[size] = rows, width
    print(f"| size | method | LagRange ms | {' | '.join(PEERS)} | fastest peer / ours |\n" + "|---" * 7 + "|")
    ahead = {size: against_peers(size, mini_batch(*sizes[size]), options.repeats) for size in sizes}
    print(
        f"\n| size | M2PO's mask | grpo ms | {' | '.join(f'{name} ×' for name in OTHERS)} |\n"
        + "|---" * (3 + len(OTHERS))
        + "|"
    )
    verdicts = [row for size in sizes for row in against_grpo(size, *sizes[size], options.repeats)]
    verdicts.append(mask_at_163k(max(3, options.repeats // 20)))
    missing = [name for name, module in PEERS.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(f"\nNot installed here, hence not compared: {', '.join(missing)}.")
    else:
        verdicts = [verdict(size, ratios) for size, ratios in ahead.items()] + verdicts
    print(targets.table(verdicts))


def verdict(size: str, ahead: dict[str, float]) -> str:
    slow = [f"{label} ({value:.2f} × as fast)" for label, value in ahead.items() if value < 1 / 1.35]
    what = f"losses at {size}: methods within 1.35 × the time of the fastest peer that has them"
    return targets.row(what, [len(ahead) - len(slow)], f"≥ {len(ahead)}", explained="; ".join(slow))


if __name__ == "__main__":
    main()
