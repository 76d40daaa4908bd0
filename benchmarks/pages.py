"""Fills the tables of the documentation from the result files.

    python benchmarks/pages.py            writes them; tests/test_docs.py fails where a page is stale

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`; NAME is a function below, which reads results/NAME.json.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MODELS = {"dit_xl2_imagenet256": "DiT-XL/2", "transfusion_7b": "Transfusion 7B"}
NETWORK = 25e9
"""Bytes/s between slices, a host of four chips: 200 Gbit/s."""
DISK = 2e9
"""Bytes/s that a host writes to shared storage."""


def table(head: str, rows: list[str]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {head} |", "|" + "---|" * (head.count("|") + 1), *(f"| {row} |" for row in rows)]


def gpu_session() -> list[str]:
    """The parts of a session on a GPU, and what became of each."""
    import gpu_session as session

    lines = []
    for part in session.PARTS:
        held = whole(f"gpu_session/{part.name}")
        result = held.get("result") or {}
        rows = result.get("step", [])
        shown = ", ".join(f"{row['name']} {row['examples_per_second']:g}/s, {row['tflops']:g} TFLOP/s" for row in rows)
        kept = {name: value for name, value in result.items() if isinstance(value, int | float | bool)}
        shown = shown or ", ".join(f"{name} {value:g}" for name, value in kept.items())
        status = held.get("status", "not measured")
        lines.append(
            f"`{part.name}` | {part.goal} | {held.get('why') or status} | {shown} | "
            f"{held['device'] + ', ' + format(held['seconds'], '.0f') + ' s' if held else ''}"
        )
    return table("part | goal | state | found | on", lines)


def growth() -> list[str]:
    """Slopes of cost against size."""
    lines = []
    for one in whole("growth").get("axes", {}).values():
        sizes, memory = [row["size"] for row in one["rows"]], one["slope_memory"]
        lines.append(
            f"{one['what']} | {sizes[0]:,} to {sizes[-1]:,} | {one['slope_seconds']:.2f} | {one['wanted']:.2f} | "
            f"{'' if memory is None else f'{memory:.2f}'} | {'yes' if one['holds'] else 'no'}"
        )
    for name, one in whole("growth").get("start_up", {}).items():
        lines.append(f"start-up, {name} | import {one['import']:.1f} s, first step {one['first_step']:.1f} s | | | |")
    head = "cost | sizes | slope of seconds | of FLOPs | of memory | <= FLOPs + 0.1"
    return table(head, lines or ["all | | not measured | | |"])


def strict() -> list[str]:
    """What the strict reduction costs."""
    rows = read("strict")
    return table(
        "devices | data x fsdp | strict / fast, one step",
        [f"{r['devices']} | {r['data']} x {r['fsdp']} | {r['ratio']:.2f}" for r in rows],
    )


def efficiency(row: dict[str, Any]) -> float:
    """With nothing hidden, T / (T + X), T the least that the compiler estimates for this model on any slice."""
    least = min(r["compute_seconds"] for r in read("scaling") if r["recipe"] == row["recipe"])
    return least / (least + row["link_seconds"])


def scaling() -> list[str]:
    """Weak scaling."""
    return table(
        "model | chips | data x fsdp | GiB a chip | compute | GB a chip and step | links | efficiency | of the peak",
        [
            f"{MODELS[r['recipe']]} | {r['chips']} | {r['mesh']['data']} x {r['mesh']['fsdp']} | {r['gib']:.1f} | "
            f"{1e3 * r['compute_seconds']:.0f} ms | {r['collective_bytes'] / 1e9:.2f} | "
            f"{1e3 * r['link_seconds']:.0f} ms | {efficiency(r):.2f} | {100 * r['share_of_peak']:.0f} %"
            for r in read("scaling")
        ],
    )


def beyond() -> list[str]:
    """Ten thousand chips, by arithmetic from the largest slice that was compiled."""
    rows = []
    for recipe, name in MODELS.items():
        one = max((r for r in read("scaling") if r["recipe"] == recipe), key=lambda r: r["chips"])
        slices, hosts = 10_000 // one["chips"], one["chips"] / 4
        crossing = 2 * (slices - 1) / slices * 4 * one["parameters"] / hosts
        step, sent = one["compute_seconds"] + one["link_seconds"], crossing / NETWORK
        saved = 16 * one["parameters"]
        rate = slices * one["examples_per_step"] / (step + sent)
        rows.append(
            f"{name} | {slices} x {one['chips']} | {crossing / 1e6:.0f} MB | {1e3 * sent:.1f} ms | "
            f"{1e3 * step:.0f} ms | {step / (step + sent):.2f} | {saved / 1e9:.0f} GB | "
            f"{saved / (hosts * DISK):.1f} s | {rate:,.0f}"
        )
    return table(
        "model | slices x chips | gradient, a host | at 200 Gbit/s | step within a slice | efficiency | checkpoint | "
        "one slice's hosts at 2 GB/s | examples/s",
        rows,
    )


def studies() -> list[str]:
    """The studies that ship: what they cost, and whether they ran."""
    return table(
        "study | base | arms | seeds | runs | budget | training FLOPs | ran on",
        [
            f"[{r['study']}](../configs/studies/{r['study']}.py) | {r['base']} | {r['arms']} | {r['seeds']} | "
            f"{r['runs']} | {r['budget']} | {r['flops']:.2g} | {r.get('device', 'not run')}"
            for r in read("studies")
        ],
    )


def findings() -> list[str]:
    """What those that ran have found."""
    return table(
        "study | metric | arm | mean [95 % interval] | difference to base [95 % interval] | p, Holm | verdict",
        [
            f"[{r['study']}](studies/{r['study']}/table.md) | {one['metric']} | {one['arm']} | {span(one['mean'])} | "
            f"{span(one['difference'], '+')} | {one['p_holm']:.2g} | {one['verdict'] or 'base'}"
            for r in read("studies")
            for one in r.get("found", [])
        ],
    )


def ranks() -> list[str]:
    """How far the two studies of backbones agree on the order of their arms; n = 5 shows no significance."""
    from scipy.stats import kendalltau

    means = {
        r["study"]: {
            one["arm"]: one["mean"]["value"] for one in r.get("found", []) if one["metric"] == "attribute accuracy"
        }
        for r in read("studies")
    }
    first, second = means["backbones"], means["backbones_labels"]
    arms = [arm for arm in first if arm in second]
    both: Any = kendalltau([first[a] for a in arms], [second[a] for a in arms])
    tau = float(both.statistic)
    shown = [", ".join(sorted(arms, key=lambda a: -found[a])) for found in (first, second)]
    return table(
        "captions, best first | labels, best first | Kendall's tau | n",
        [f"{' | '.join(shown)} | {tau:.2f} | {len(arms)}"],
    )


def speed() -> list[str]:
    """Against PyTorch on two CPU cores; the goals are the project's own."""
    rows = []
    step, sample = ("training step, batch 8", "train_step", "step"), ("guided sampling, 50 steps", "sampling", "sample")
    for (what, name, part), goals in ((step, {64: "1.2", 256: "1.0"}), (sample, {64: "1.7", 256: "1.7"})):
        for one in whole(name)["lengths"]:
            ratios = {side["name"]: side["ratio_paired"] for side in one[part]}
            columns = ("torch eager", "torch eager, heap kept", "torch.compile", "torch eager, bfloat16")
            others = [ratios.get(other) for other in columns]
            cells = ["not measured" if r is None else f"{r:.2f}" for r in others]
            goal = goals.get(one["tokens"], "")
            rows.append(f"{what} | {one['tokens']} | {' | '.join(cells)} | {goal}")
    return table(f"DiT-S | tokens | {' | '.join(columns)} | goal (eager)", rows)


def hopper() -> list[str]:
    """The attention sub-block on a GPU: TFLOP/s, and time / time of ours."""
    shapes = {
        "dit_xl_256": "sub-block of DiT-XL, 64 x 256 tokens",
        "dit_xl_1024": "sub-block of DiT-XL, 64 x 1,024 tokens",
        "n_4096_24x128": "attention, 4 x 4,096 tokens, 24 heads of 128",
        "transfusion_4096": "attention of packed documents, 4,096 tokens, 32 heads of 128",
    }
    rows = []
    for name, found in whole("modulated_attention")["shapes"].items():
        for task in [t for t in ("forward", "gradient", "attend", "attend_gradient") if t in found]:
            cells = [f"{side['tflops']:.0f} ({side['ratio_paired']:.2f})" for side in found[task]]
            rows.append(f"{shapes[name]}{', gradients' if 'gradient' in task else ''} | {' | '.join(cells)}")
    return table("TFLOP/s (time / ours) | ours | XLA | cuDNN, the rest XLA | PyTorch, compiled", rows)


def edits() -> list[str]:
    """Edits before and after fine-tuning."""
    rows = []
    for name, run in whole("finetuning").get("edits", {}).items():
        for r in run["rows"]:
            value = f"{r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"
            beside = f"{r['chance']:.3f} | {r['unchanged']:.0f}"
            rows.append(
                f"{name} | {run['steps']} | {r['split']} | {r['metric'].replace('_', ' ')} | {value} | {beside}"
            )
    return table("fine-tuning | steps | split | metric | value [95 % interval] | guessing | image left unchanged", rows)


def action() -> list[str]:
    """A further modality: new pairs, and what became of the old ones."""
    found = whole("finetuning").get("action", {"tuned": []})["tuned"]
    return table(
        "trained | parameters | steps | mean of the new pairs | above chance (Holm) | change of the old pairs [95 % "
        "interval over pairs] | worst",
        [
            f"{r['tuning']} | {r['parameters'] / 1e6:.2f} M | {r['steps']} | "
            f"{sum(p['value'] for p in r['new_pairs']) / len(r['new_pairs']):.2f} | "
            f"{sum(p['above_chance'] for p in r['new_pairs'])} of {len(r['new_pairs'])} | "
            f"{span(r['change_of_old'], '+')} | {r['worst_change']:+.2f}"
            for r in found
        ],
    )


def new_pairs() -> list[str]:
    """The new pairs one by one."""
    found = whole("finetuning").get("action", {"tuned": []})["tuned"]
    requests = [(r["given"], r["wanted"]) for r in found[0]["new_pairs"]] if found else []
    rows = []
    for given, wanted in requests:
        cells, chance = [], 0.0
        for run in found:
            (pair,) = [p for p in run["new_pairs"] if (p["given"], p["wanted"]) == (given, wanted)]
            cells.append(f"{pair['value']:.2f} [{pair['low']:.2f}, {pair['high']:.2f}]")
            chance = pair["chance"]
        name = given[0] if len(given) == 1 else "all others"
        rows.append(f"{name} -> {wanted[0]} | {' | '.join(cells)} | {chance:.2f}")
    return table(f"pair | {' | '.join(r['tuning'] for r in found)} | chance", rows)


def emoji() -> list[str]:
    """Validation losses of emoji from two starts."""
    found = whole("finetuning").get("emoji", {})
    steps = [step for step, _ in next(iter(found.values()))["validation"]] if found else []
    rows = [
        f"{name} | " + " | ".join(f"{loss:.4f}" for _, loss in run["validation"]) + f" | {run['rows'][0]['value']:.2f}"
        for name, run in found.items()
    ]
    return table(f"started from | {' | '.join(f'loss at {s}' for s in steps)} | {emoji_metric(found)}", rows)


def emoji_metric(found: dict[str, Any]) -> str:
    """Name of the first metric."""
    return next(iter(found.values()))["rows"][0]["metric"].replace("_", " ") if found else "metric"


def span(mean: dict[str, Any] | None, sign: str = "") -> str:
    """`value [low, high]`."""
    if mean is None:
        return ""
    interval = "" if mean["low"] is None else f" [{mean['low']:{sign}.3g}, {mean['high']:{sign}.3g}]"
    return f"{mean['value']:{sign}.3g}{interval}"


def distances() -> list[str]:
    """Frechet distances of two halves, and of corruptions."""
    rows = [row for row in read("distances") if row["metric"] in ("fid", "frechet")]
    sets = list(dict.fromkeys(row["set"] for row in rows))
    lines = []
    for extractor in dict.fromkeys(row["extractor"] for row in rows):
        cells = {
            row["set"]: f"{row['value']:.3g} [{row['low']:.2g}, {row['high']:.2g}]"
            for row in rows
            if row["extractor"] == extractor
        }
        lines.append(" | ".join([extractor.split(" (")[0], *(cells[name] for name in sets)]))
    return table(" | ".join(["extractor", *sets]), lines)


def reading() -> list[str]:
    """Reading and preparing pictures: the others' time over ours."""
    found = whole("data")
    peers = {"torch": "torch's DataLoader, Pillow", "torch, tensors": "torchvision's tensors", "datasets": "`datasets`"}
    peers["datasets, torch"] = "`datasets` in a DataLoader"
    tasks = {
        "photos": "JPEGs of 400 to 800 pixels, cropped to 256 and mirrored",
        "records": "built records of 256 pixels",
    }
    lines = []
    for task, words in tasks.items():
        rows = {row["name"]: row for row in found[task]["rows"]}
        cells = []
        for name in peers:
            apart = rows[name]["largest_difference"]
            note = f" (differs by up to {apart} grey levels)" if apart > 1 else ""
            cells.append(f"{rows[name]['ratio_paired']:.2f}{note}")
        lines.append(" | ".join([words, *cells]))
    return table(" | ".join(["", *peers.values()]), lines)


def waits() -> list[str]:
    """Shares of a training step that wait for data."""
    return table(
        "recipe | share of a step that waits for data",
        [f"`{row['recipe']}` | {100 * row['share']:.2f} %" for row in whole("data")["waits"]],
    )


def recipe_distances() -> list[str]:
    """Distances of recipes' samples, from docs/measurements.json."""
    measured = json.loads((ROOT / "docs" / "measurements.json").read_text())
    metrics = ("frechet", "kernel", "precision", "recall")
    lines = []
    for recipe, found in measured.items():
        told = found.get("distances", {"rows": []})
        for extractor in dict.fromkeys(row["extractor"] for row in told["rows"]):
            rows = {row["metric"]: row for row in told["rows"] if row["extractor"] == extractor}
            cells = [with_interval(rows[name]) if name in rows else "" for name in metrics]
            first = [f"{recipe}, {told['step']:,} steps", told["against"], f"{next(iter(rows.values()))['n']:,}"]
            lines.append(" | ".join([*first, extractor.split(" (")[0], *cells]))
    head = " | ".join(["recipe", "against", "n", "extractor", *metrics])
    return table(head, lines or [" | ".join(["none", "not measured", *[""] * 6])])


def with_interval(row: dict[str, Any]) -> str:
    """A value with its interval."""
    interval = "" if row["low"] is None else f" [{row['low']:.2g}, {row['high']:.2g}]"
    return f"{row['value']:.3g}{interval}"


def backbones() -> list[str]:
    """Networks: what is special, where, sizes, weights, reference outputs."""
    lines = []
    for row in read("backbones"):
        sizes = ", ".join(f"{name} {count / 1e6:,.1f}" for name, count in row["parameters"].items())
        passed, failed = row["rows"].get("pass", 0), row["rows"].get("fail", 0)
        compared = f"{passed} of {passed + failed} outputs" if row["rows"] else "not measured"
        file = row["file"].removeprefix("unified_jax/networks/")
        lines.append(" | ".join([
            row["system"], row["special"], f"[{file}](../{row['file']})", sizes, row["weights"],
            compared if row["reference"] else "no reference", row["trained"],
        ]))  # fmt: skip
    head = "system | what is special | file | parameters, millions | weights | equal to the reference | trained by"
    return table(head, lines)


def bf16_cpu() -> list[str]:
    """bfloat16 on a processor that multiplies it: beside float32 and PyTorch's two, and the loss at the end."""
    lines = []
    for task, said in (("step", "training step"), ("sample", "guided sampling, 50 steps")):
        for one in whole("bf16_cpu_speed").get("lengths", []):
            ratios = {row["name"]: row["ratio_paired"] for row in one[task]}
            goals = whole("bf16_cpu_speed")["goals"][task]
            cells = [f"{ratios['ours, float32']:.2f}"]
            for other in ("torch eager", "torch eager, bfloat16"):
                cells.append(f"{ratios[other]:.2f} | {goals[other]:g}")
            lines.append(" | ".join([f"{said} | {one['tokens']}", *cells]))
    head = "DiT-S, batch 8 | tokens | ours, float32 | torch, float32 | goal | torch, bfloat16 | goal"
    return table(head, lines or ["all | 64, 256 | not measured |  |  |  | "])


def bf16_quality() -> list[str]:
    """Validation losses of paired runs."""
    found = whole("bf16_cpu_quality")
    rows = found.get("rows", [])
    lines = [
        f"{row['seed']} | {row['float32']:.5f} | {row['bfloat16']:.5f} | {100 * row['difference']:+.2f} %"
        for row in rows
    ]
    if rows:
        interval = f"[{100 * found['low']:+.2f}, {100 * found['high']:+.2f}]"
        lines.append(f"mean, 95 % interval |  |  | {100 * found['mean']:+.2f} {interval} %")
    head = f"{found.get('recipe', 'recipe')}, seed | float32 | bfloat16 | difference"
    return table(head, lines or ["all | not measured |  | "])


def peers() -> list[str]:
    """Our step and sampler beside other libraries', with the heap kept, and given back."""
    lines = []
    for length in whole("peers").get("lengths", []):
        for task in ("step", "sample"):
            for heap, rows in length[task].items():
                what = f"{'training step' if task == 'step' else 'guided sampling'} | {length['tokens']}"
                cells = {row["name"].split(",")[0]: f"{row['ratio_paired']:.2f}" for row in rows}
                kept = "kept" if heap == "kept" else "given back"
                lines.append(" | ".join([what, kept, *(cells.get(name, "") for name in PEERS)]))
    head = " | ".join(["DiT-S, batch 8", "tokens", "heap", *PEERS])
    return table(head, lines or [" | ".join(["all", "64, 256", "not measured", *[""] * len(PEERS)])])


def peers_memory() -> list[str]:
    """Peaks of memory, and our first call."""
    lines = []
    for length in whole("peers").get("lengths", []):
        tokens = str(length["tokens"])
        for name, first in length["firsts"].items():
            numbers = (first["parameters"] / 1e6, first["peak_step_gib"], first["peak_gib"])
            lines.append(" | ".join([name, tokens, *(f"{value:.1f}" for value in numbers), ""]))
        for name in ("cold", "warm"):
            seconds = f"{length['start'][name]['first_step']:.1f}"
            lines.append(" | ".join([f"ours, {name} cache of programs", tokens, "", "", "", seconds]))
    head = "library | tokens | parameters, millions | GiB after steps | GiB after samples | first step, s"
    return table(head, lines or ["all | 64, 256 | not measured |  |  | "])


def completed() -> list[str]:
    """What a model draws where labels are left out."""
    rows = read("completed")
    found = {(tuple(row["given"]), row["complete"]): row for row in rows}
    lines = []
    for given in dict.fromkeys(key[0] for key in found):
        cells = [", ".join(given)]
        for metric in ("count_accuracy", "attribute_accuracy"):
            cells += [with_interval(found[given, complete][metric]) for complete in (False, True)]
        lines.append(" | ".join(cells))
    head = "given | one object: the model | drawn first | all right: the model | drawn first"
    return table(head, lines or ["all | not measured |  |  | "])


def goals() -> list[str]:
    """The goals of `world_text`, by wording and seed."""
    shown = "{value:.3f} [{low:.3f}, {high:.3f}]"
    found: dict[tuple[str, int], list[str]] = {}
    for row in read("goals"):
        found.setdefault((row.get("words", "grammar"), row["seed"]), []).append(shown.format(**row))
    lines = [" | ".join([words, f"{seed}", *cells]) for (words, seed), cells in found.items()]
    head = "words | seed | attributes | number of objects | of one | of two"
    return table(head, lines or ["all |  | not measured |  |  | "])


def steps() -> list[str]:
    """Accuracy by sampling steps and guidance."""
    lines = [
        f"`{name}` | {row['steps']} | {row['guidance']:g} | {row['attribute_accuracy']:.3f} "
        f"[{row['low']:.3f}, {row['high']:.3f}] | {row['accuracy/shape']:.3f} | {row['count_accuracy']:.3f}"
        for name, rows in whole("steps").get("runs", {}).items()
        for row in rows
    ]
    head = "recipe | steps | guidance | attributes | shape | number of objects"
    return table(head, lines or ["all | | | not measured | | "])


def any_to_any() -> list[str]:
    """The goals of `transfusion_world`, and the plans that were compared on a validation split."""
    found = whole("any_to_any")
    columns = list(found.get("goals", {"caption -> image": 0.95}))
    arms = {f"split {name}": one for name, one in found.get("splits", {}).items()}
    arms |= {f"validation, {name}": one for name, one in found.get("plans", {}).items()}
    lines = [
        " | ".join([name, *(f"{one[c]:.3f}" for c in columns), f"{one['not above chance']}"])
        for name, one in arms.items()
    ]
    wanted = [" | ".join(["goal", *(f"{found['goals'][c]:g}" for c in columns), "0"])] if lines else []
    head = " | ".join(["sampled", *columns, "not above chance"])
    return table(head, wanted + lines or ["all | not measured | "])


def control() -> list[str]:
    """Whether a ControlNet's pictures follow their maps."""
    found, lines = whole("control"), []
    for name, said in (("own", "its own"), ("another", "another scene's")):
        rows = found.get("maps", {}).get(name)
        names = ("shape", "size", "place", "colour", "one_object")
        lines += [f"{said} | " + " | ".join(with_interval(rows[key]) for key in names)] if rows else []
    if lines:
        agree = found["agree"]
        lines.append(f"(two scenes agree) | {agree['shape']:.3g} | {agree['size']:.3g} | {agree['place']:.3g} |  | ")
    head = "map | shape | size | place | colour, by the caption | one object"
    return table(head, lines or ["all | not measured |  |  |  | "])


def distance_memory() -> list[str]:
    """Peaks of memory."""
    rows = read("distance_memory")
    lines = [f"{row['group']} | {row['count']:,} | {row['peak_gib']:.2f}" for row in rows]
    return table("metric | images on each side | peak, GiB", lines or ["all | 50,000 | not measured"])


def fid_peers() -> list[str]:
    """The published programs on the same files."""
    rows = [f"{r['peer']} | {r['metric']} | {r['theirs']:.7g} | {r['ours']:.7g}" for r in read("fid_peers")]
    return table("program | metric | theirs | ours", rows)


PEERS = ("hackable-diffusion", "FlaxDiff", "Dew", "torch", "diffusers")
TABLES = {
    "benchmarks/README.md": (speed, bf16_cpu, bf16_quality, peers, peers_memory),
    "docs/kernels.md": (hopper, gpu_session),
    "docs/launch.md": (strict,),
    "docs/scaling.md": (scaling, beyond, growth),
    "docs/studies.md": (studies, findings, ranks),
    "docs/backbones.md": (backbones,),
    "docs/data.md": (reading, waits),
    "docs/evaluation.md": (distances, recipe_distances, distance_memory, fid_peers),
    "docs/recipes.md": (completed, goals, steps),
    "docs/transfusion.md": (any_to_any,),
    "docs/finetuning.md": (edits, action, new_pairs, control, emoji),
}


def whole(name: str) -> dict[str, Any]:
    """A result file; {} where it was not written yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def read(name: str) -> list[dict[str, Any]]:
    """The rows of a result file; none where it was not written yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def filled(page: str) -> str:
    """The page with its tables as the result files have them. Raises ValueError where a mark is missing."""
    text = (ROOT / page).read_text()
    for make in TABLES[page]:
        name = make.__name__
        lines = "\n".join([f"<!-- {name} -->", "", *make(), "", f"<!-- /{name} -->"])
        text, count = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, new=lines: new, text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{page} has {count} places for the table {name}, expected one.")
    return text


def fill() -> None:
    """Writes all pages."""
    for page in TABLES:
        (ROOT / page).write_text(filled(page))


def plot_scaling() -> None:
    """docs/figures/scaling.png: efficiency and bytes against chips."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for (recipe, name), colour in zip(MODELS.items(), ("tab:blue", "tab:orange"), strict=True):
        own = [r for r in read("scaling") if r["recipe"] == recipe]
        chips = [r["chips"] for r in own]
        left.plot(chips, [efficiency(r) for r in own], "o-", color=colour, label=name)
        right.plot(chips, [r["collective_bytes"] / 1e9 for r in own], "o-", color=colour)
    left.set(xscale="log", ylim=(0, 1.02), ylabel="efficiency, nothing hidden", title="weak scaling, estimated")
    right.set(xscale="log", yscale="log", ylabel="GB sent per chip and step", title="collectives")
    ticks = sorted({r["chips"] for r in read("scaling")})
    for axis in (left, right):
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.minorticks_off()
        axis.set_xlabel("v5p chips")
        axis.grid(alpha=0.3)
    left.legend(loc="lower left", fontsize=8)
    figure.savefig(ROOT / "docs" / "figures" / "scaling.png", dpi=110)


def plot_growth() -> None:
    """docs/figures/growth.png: seconds and the FLOPs' line through the largest size, one panel an axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    axes = whole("growth")["axes"]
    figure, panels = plt.subplots(2, -(-len(axes) // 2), figsize=(12, 5), layout="constrained", squeeze=False)
    for panel, one in zip(panels.flat, axes.values(), strict=False):
        sizes, seconds = ([row[name] for row in one["rows"]] for name in ("size", "seconds"))
        panel.plot(sizes, seconds, "o-", color="tab:blue", label=f"seconds, slope {one['slope_seconds']:.2f}")
        line = [seconds[-1] * (n / sizes[-1]) ** one["wanted"] for n in sizes]
        panel.plot(sizes, line, "--", color="tab:gray", label=f"wanted, {one['wanted']:.2f}")
        panel.set(xscale="log", yscale="log", title=one["what"], xticks=[])
        panel.set_xticks(sizes, [f"{n:,}" for n in sizes], minor=False, fontsize=7)
        panel.minorticks_off()
        panel.set_ylim(min(seconds) / 2, max(seconds) * 2)
        panel.set_yticks([], minor=True)
        panel.legend(fontsize=7)
        panel.grid(alpha=0.3)
    for panel in panels.flat[len(axes) :]:
        panel.axis("off")
    figure.savefig(ROOT / "docs" / "figures" / "growth.png", dpi=110)


if __name__ == "__main__":
    fill()
