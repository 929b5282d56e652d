"""What the paper claims, and whether it holds here: one table, decided by the outcomes of all other studies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smoothgen.errors import ConfigError
from smoothgen.reproduction.estimates import Seeded, difference, of_key, sure_sign, text
from smoothgen.reproduction.study import Job, Outcome, Study
from smoothgen.reproduction.tables import line

Found = Mapping[str, Mapping[str, Seeded]]
"""Outcomes by study, name of the job, and seed."""


@dataclass(frozen=True)
class Claim:
    """said: what the paper claims, and where. judge: verdict and evidence, or None without outcomes to judge by."""

    said: str
    judge: Callable[[Found], tuple[str, str] | None]


class Claims(Study):
    """A study without jobs of its own: it judges by those of the others, which run once."""

    name = "claims"
    title = "Which claims of the paper hold"
    source = "all of the paper's sections 3 to 5 and appendix B that are about one and two dimensions"

    def __init__(self, others: Sequence[Study]) -> None:
        self.others = others

    def jobs(self, seeds: Sequence[int], quick: bool) -> list[Job]:
        own: dict[Job, None] = {}
        for study in self.others:
            own |= dict.fromkeys(study.jobs(seeds, quick))
        return list(own)

    def run(self, job: Job) -> Outcome:
        raise ConfigError(f"{self.name} has no jobs of its own; every job is run by the study it comes from")

    def present(self, outcomes: Mapping[Job, Outcome], directory: Path) -> str:
        found: dict[str, dict[str, Seeded]] = {}
        for job, outcome in outcomes.items():
            found.setdefault(job.study, {}).setdefault(job.name, {})[job.seed] = outcome
        lines = [line(("the paper says", "here", "evidence")), "|---|---|---|"]
        verdicts = []
        for claim in CLAIMS:
            judged = claim.judge(found)
            if judged is not None:
                verdicts.append(judged[0])
                lines.append(line((claim.said, f"**{judged[0]}**", judged[1])))
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
        return "\n\n".join([f"Of {len(verdicts)} claims: {counts}.", EXPLAINED, "\n".join(lines)])


EXPLAINED = (
    "Differences are paired over seeds, with their standard errors; nats unless another unit is named. *Holds* and "
    "*fails* mean more than two standard errors; *depends* that sets, settings or measures disagree."
)


def judged(signs: Mapping[str, int], evidence: Sequence[str]) -> tuple[str, str] | None:
    """holds where every sign is 1, fails where every one is -1, otherwise depends; undecided where all are 0."""
    values = set(signs.values())
    if not values:
        return None
    verdict = {frozenset({1}): "holds", frozenset({-1}): "fails", frozenset({0}): "undecided"}
    return verdict.get(frozenset(values), "depends"), "; ".join(evidence)


def compared(
    found: Found, pairs: Mapping[str, tuple[str, str, str]], keys: Sequence[str] = ("nll",)
) -> tuple[str, str] | None:
    """Whether the first row of each pair is below the second. pairs: label -> (study, first row, second row)."""
    signs, evidence = {}, []
    for label, (study, first, second) in pairs.items():
        rows = found.get(study, {})
        for key in keys:
            if _has(rows.get(first), key) and _has(rows.get(second), key):
                apart = difference(rows[first], rows[second], key)
                signs[f"{label} {key}"] = -sure_sign(apart)
                named = label if key == "nll" else f"{label}, {KEYS.get(key, key)}"
                evidence.append(f"{named}: {text(apart)}")
    return judged(signs, evidence)


KEYS = {"off_support": "share off the support", "mmd": "MMD²"}
SETS = ("rings", "olympics", "checkerboard")


def _has(seeded: Seeded | None, key: str) -> bool:
    return bool(seeded) and all(key in outcome.numbers for outcome in (seeded or {}).values())


def _three_against_six(found: Found) -> tuple[str, str] | None:
    pairs = {
        f"{name}, {family}": (name, f"smoothed MADE, 3 {family}", f"MADE, 6 {family}")
        for name in SETS
        for family in ("logistics", "Gaussians")
    }
    return compared(found, pairs)


def best(rows: Mapping[str, Seeded], smoothed: bool, key: str) -> str | None:
    """The row with the lowest mean among smoothed or plain MADEs."""
    names = [name for name in rows if "MADE" in name and name.startswith("smoothed") == smoothed]
    known = [(of_key(rows[name], key).mean, name) for name in names if _has(rows[name], key)]
    return min(known)[1] if known else None


def _best_against_best(found: Found) -> tuple[str, str] | None:
    signs, evidence = {}, []
    for name in SETS:
        rows = found.get(name, {})
        for key in ("nll", "off_support", "mmd"):
            ours, theirs = best(rows, True, key), best(rows, False, key)
            if ours is None or theirs is None:
                continue
            apart = difference(rows[ours], rows[theirs], key)
            signs[f"{name} {key}"] = -sure_sign(apart)
            label = f"{name}, {KEYS.get(key, 'nats')}"
            evidence.append(f"{label}: {text(apart, 4)} ({ours} against {theirs})")
    return judged(signs, evidence)


def _flows(found: Found) -> tuple[str, str] | None:
    pairs = {
        f"{name}{how}": (name, f"smoothed RealNVP{how}", f"RealNVP{how}")
        for name in SETS
        for how in ("", ", no Fourier inputs")
    }
    return compared(found, pairs, ("nll", "off_support"))


def _single_step(found: Found) -> tuple[str, str] | None:
    """The share off the support after a single step, against that of two-step samples from the same x_tilde."""
    signs, evidence = {}, []
    for name in SETS:
        seeded = found.get(name, {}).get("smoothed MADE, 3 logistics", {})
        shares = [
            [outcome.numbers["sets"][kind]["off support"]["value"] for kind in ("two-step", "single-step")]
            for outcome in seeded.values()
            if "sets" in outcome.numbers
        ]
        if shares:
            two, one = (sum(column) / len(shares) for column in zip(*shares, strict=True))
            signs[name] = 1 if one > 2.0 * two else -1
            evidence.append(f"{name}: {one:.3f} of single-step samples off the support, {two:.3f} of two-step ones")
    return judged(signs, evidence)


def _reverse_u(found: Found) -> tuple[str, str] | None:
    signs, evidence = {}, []
    for kernel in ("gaussian", "laplace", "uniform"):
        curve = _curve(found, kernel)
        if len(curve) > 2:
            sigma = min(curve, key=lambda point: of_key(point[1], "gap").mean)[0]
            signs[kernel] = 1 if curve[0][0] < sigma < curve[-1][0] else -1
            evidence.append(f"{kernel}: best at σ = {sigma:g}, of {curve[0][0]:g} to {curve[-1][0]:g}")
    return judged(signs, evidence)


def _kernels(found: Found) -> tuple[str, str] | None:
    signs: dict[str, int] = {}
    evidence = []
    lowest = {
        kernel: min(curve, key=lambda point: of_key(point[1], "gap").mean)[1]
        for kernel in ("gaussian", "laplace", "uniform")
        if (curve := _curve(found, kernel))
    }
    for other in ("laplace", "uniform"):
        if "gaussian" in lowest and other in lowest:
            apart = difference(lowest["gaussian"], lowest[other], "gap")
            signs[other] = -sure_sign(apart)
            evidence.append(f"Gaussian − {other}, each at its best σ: {text(apart)}")
    return judged(signs, evidence)


def _curve(found: Found, kernel: str, data: str = "six modes") -> list[tuple[float, Seeded]]:
    start = f"{data}, {kernel} "
    return sorted(
        (
            (float(name.removeprefix(start)), seeded)
            for name, seeded in found.get("variance", {}).items()
            if name.startswith(start) and "best" not in name
        ),
        key=lambda point: point[0],
    )


def _eight_components(found: Found) -> tuple[str, str] | None:
    rows = {name: seeded for name, seeded in found.get("plain-mixture", {}).items() if name.startswith("8 ")}
    if not rows:
        return None
    signs = {name: 1 if of_key(seeded, "gap").mean > FITTED else -1 for name, seeded in rows.items()}
    evidence = [f"{name.removeprefix('8 from ')}: gap {text(of_key(seeded, 'gap'))}" for name, seeded in rows.items()]
    return judged(signs, evidence)


FITTED = 0.1
"""A gap below which no mode is missing."""


def _learned(found: Found) -> tuple[str, str] | None:
    runs = [
        outcome.numbers["sigma"]
        for name, seeded in found.get("learned-sigma", {}).items()
        if name.startswith("six_modes from")
        for outcome in seeded.values()
    ]
    if not runs:
        return None
    verdict = "holds" if sum(sigma > 1.4 for sigma in runs) > len(runs) / 2 else "fails"
    return verdict, f"six modes, {len(runs)} runs from σ = .1 to 3: learned σ from {min(runs):.3f} to {max(runs):.3f}"


def _ten_modes(found: Found) -> tuple[str, str] | None:
    rows = found.get("ten-modes", {})
    keys = [name for name in rows if _has(rows[name], "divergence")]
    smoothed = next((name for name in keys if "iw_gap" in next(iter(rows[name].values())).numbers), None)
    plain = next((name for name in keys if name != smoothed and "3" in name), None)
    if smoothed is None or plain is None:
        return None
    apart = difference(rows[smoothed], rows[plain], "divergence")
    values = [text(of_key(rows[name], "divergence")) for name in (smoothed, plain)]
    return judged({"": -sure_sign(apart)}, [f"KL {values[0]} to the smoothed density, {values[1]} to the data's"])


def _theorem(found: Found) -> tuple[str, str] | None:
    ratios = [
        ratio
        for seeded in found.get("theorem-1", {}).values()
        for outcome in seeded.values()
        for ratio in outcome.numbers["ratios"]
    ]
    if not ratios:
        return None
    verdict = "holds" if max(ratios) <= 1.0 + 1e-9 else "fails"
    return verdict, f"largest of {len(ratios)} ratios of Lipschitz constants: {max(ratios):.4f}"


def _regularises(found: Found) -> tuple[str, str] | None:
    rows = found.get("data-size", {})
    signs, evidence = {}, []
    for name in rows:
        if name.startswith("smoothed, "):
            other = f"plain, {name.removeprefix('smoothed, ')}"
            if other in rows:
                apart = difference(rows[name], rows[other], "nll")
                signs[name] = -sure_sign(apart)
                evidence.append(f"{name.removeprefix('smoothed, ')}: {text(apart)}")
    return judged(signs, evidence)


def _compounds(found: Found) -> tuple[str, str] | None:
    """Whether a smoothed model loses less after prefixes of its own than the plain one."""
    rows = found.get("compounding", {})
    signs, evidence = {}, []
    for name, seeded in rows.items():
        data, _, row = name.partition(": ")
        plain = next((key for key in rows if key.startswith(f"{data}: MADE")), None)
        if row.startswith("smoothed") and plain is not None:
            apart = difference(seeded, rows[plain], "own total")
            signs[name] = -sure_sign(apart)
            evidence.append(f"{data}, {row.removeprefix('smoothed ')}: {text(apart)}")
    return judged(signs, evidence)


CLAIMS = (
    Claim("Smoothing by a symmetric kernel never raises the Lipschitz constant (Theorem 1)", _theorem),
    Claim("Three logistics fit the smoothed ten modes, not the ten modes (Fig. 3)", _ten_modes),
    Claim("−ELBO is a U in the variance of the noise: neither little nor much is best (Fig. 4)", _reverse_u),
    Claim("Gaussian noise is better than Laplace and uniform noise (section 4.1)", _kernels),
    Claim("Eight plain components still fail on six modes (Fig. 4)", _eight_components),
    Claim("A learned variance becomes very large (section 3.3, said of images)", _learned),
    Claim("Three smoothed components beat six plain ones (Table 1, −ELBO − NLL)", _three_against_six),
    Claim(
        "Smoothed models beat plain ones (section 4.2): best against best, whatever their components",
        _best_against_best,
    ),
    Claim("Smoothing improves RealNVP (section 4.4, −ELBO − NLL and share off the support)", _flows),
    Claim("A single step gives poor samples where the noise is wide (appendix B.2)", _single_step),
    Claim("Smoothing regularises (Proposition 1): better test −ELBO than NLL on few examples, rings", _regularises),
    Claim(
        "Errors compound less in the smoothed model (section 3): sum of KL after prefixes of its own, smoothed − plain",
        _compounds,
    ),
)
