"""Turn what `pyconv bench --json` wrote into the Markdown tables of docs/performance.md.

    python benchmarks/tables.py layers.json one_image.json networks.json --into docs/performance.md

Each file may hold any of the tables. Without `--into` they are printed; with it, they replace what
stands between the two marks in that file.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import geometric_mean

BEGIN, END = "<!-- begin of benchmarks/tables.py -->\n", "<!-- end of benchmarks/tables.py -->\n"
TITLES = {"layers": "Layers", "one_image": "One image", "extra": "Other shapes"}
MODES = {"train": "Training step, 64 images, Adam", "infer_64": "Inference, 64 images",
         "infer_1": "Inference, one image"}
UNSTEADY = " \\* Half of the rounds took over 1.5 times the best: the machine had other work."
CONV, POOL = ("forward", "dx", "dw"), ("max_forward", "max_backward", "avg_forward", "avg_backward")


def table(heads, rows):
    """A Markdown table; the first column to the left, numbers to the right."""
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines) + "\n"


def milliseconds(seconds):
    return f"{1e3 * seconds:.3g}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"


def machine(report):
    """What was measured, and on what."""
    m = report["machine"]
    peaks = ", ".join(f"{gflops:.0f} GFLOP/s on {threads}"
                      for threads, gflops in report["fma_peak_gflops"].items())
    peers = "".join(f", {p['name']} {p['version']}" for p in report["peers"])
    return (f"{m['cpu']}, {m['cpus']} CPUs, kernels {m['isa']}, compiler {m['compiler']}, "
            f"{m['system']}. pyconv {m['pyconv']} ({m['commit']}){peers}; {m['date'][:10]}. "
            f"Threads and FMA peak: {peaks}.\n\n")


def compared(row, peers):
    """The cells of one row that say how it compares."""
    for peer in peers:
        found = row["peers"].get(peer)
        yield from (milliseconds(found["seconds"]), f"{found['ratio']:.2f}") if found else ("-", "-")


def layers(report, kind, directions):
    """One table a direction: time, rate, algorithm, and each peer's time and ratio."""
    rows = [row for row in report["rows"] if row["kind"] == kind]
    text = ""
    for direction in directions:
        chosen = [row for row in rows if row["direction"] == direction]
        peers = [peer["name"] for peer in report["peers"]
                 if any(peer["name"] in row["peers"] for row in chosen)]
        peak = {int(threads): gflops for threads, gflops in report["fma_peak_gflops"].items()}
        heads = ["layer", "threads", "ms", *([chosen[0]["unit"]] if chosen else [])]
        heads += ["% of peak", "algorithm"] if kind == "conv" else []
        heads += [head for peer in peers for head in (f"{peer}, ms", "ratio")]
        lines = []
        for row in chosen:
            name = row["name"] + (" \\*" if row["unsteady"] else "")
            line = [name, row["threads"], milliseconds(row["seconds"]), f"{row['rate']:.0f}"]
            if kind == "conv":
                line += [f"{100 * row['rate'] / peak[row['threads']]:.0f}", row["algorithm"]]
            lines.append([*line, *compared(row, peers)])
        if lines:
            means = " ".join(
                f"Geometric mean of {peer}'s time / pyconv's: {geometric_mean(ratios):.2f}."
                for peer in peers
                if (ratios := [row["peers"][peer]["ratio"] for row in chosen
                               if peer in row["peers"]]))
            means += UNSTEADY if any(row["unsteady"] for row in chosen) else ""
            text += f"### {direction}\n\n{table(heads, lines)}"
            text += f"{means.strip()}\n\n" if means else ""
    return text


def errors(report):
    """The largest error of each layer that Winograd computes, as a part of the rms."""
    by_layer = {}
    for row in report["rows"]:
        if row.get("algorithm") == "winograd":
            by_layer.setdefault(row["name"], {})[row["direction"]] = row["error_of_rms"]
    lines = [[name, *(f"{found[d]:.1e}" if d in found else "direct" for d in CONV)]
             for name, found in by_layer.items()]
    return f"### Winograd's error\n\n{table(['layer', *CONV], lines)}" if lines else ""


def predictions(report):
    """How many times as fast each convolution would be."""
    lines = []
    for p in report["predictions"]:
        alone = p["serial_seconds"] + sum(map(sum, p["items"]))
        lines.append([f"{p['name']} {p['direction']}", sum(map(len, p["items"])),
                      *(f"{alone / seconds:.1f}" for seconds in p["predicted_seconds"].values())])
    counts = list(report["predictions"][0]["predicted_seconds"])
    cost = report["region_seconds"]
    return (table(["layer", "items", *(f"x on {count}" for count in counts)], lines)
            + "A parallel region costs " + ", ".join(
                f"{1e6 * cost[count]:.1f} us on {count}" for count in (counts[0], counts[-1]))
            + " threads, of which the first is measured.\n\n")


def networks(report):
    """One table a mode: each network's time, and each peer's time and ratio; then memory."""
    text = ""
    for mode in dict.fromkeys(row["mode"] for row in report["rows"]):
        chosen = [row for row in report["rows"] if row["mode"] == mode]
        peers = [peer["name"] for peer in report["peers"]
                 if any(row["peers"].get(peer["name"], {}).get("ratio") for row in chosen)]
        heads = ["network", "threads", "ms"]
        heads += [head for peer in peers for head in (f"{peer}, ms", "ratio")]
        lines = [[row["network"] + (" \\*" if row["unsteady"] else ""), row["threads"],
                  milliseconds(row["seconds"]),
                  *compared({"peers": {name: found for name, found in row["peers"].items()
                                       if found["ratio"]}}, peers)] for row in chosen]
        text += f"### {MODES[mode]}\n\n{table(heads, lines)}"
        text += UNSTEADY.strip() + "\n\n" if any(row["unsteady"] for row in chosen) else ""
    if report["memory"]:
        sides = list(report["memory"][0]["bytes"])
        lines = [[row["network"], *(f"{row['bytes'][side] / 1e6:.0f}" for side in sides)]
                 for row in report["memory"]]
        text += ("### Peak memory of a training step of 64 images, above the imported library, MB\n\n"
                 + table(["network", *sides], lines))
    return text


def tables(report):
    """All tables of one report, under a heading each."""
    if report["section"] == "networks":
        m = report["machine"]
        peers = ", ".join(f"{p['name']} {p['version']}" for p in report["peers"])
        return (f"## Networks\n\n{m['cpu']}, {m['cpus']} CPUs, kernels {m['isa']}. pyconv {m['pyconv']} "
                f"({m['commit']}), {peers}; {m['date'][:10]}.\n\n{networks(report)}")
    if report["predictions"]:
        return f"## More threads: predicted, not measured\n\n{machine(report)}{predictions(report)}"
    conv, pool = layers(report, "conv", CONV), layers(report, "pool", POOL)
    title = TITLES.get(report["section"], "Chosen layers")
    return (f"## {title}\n\n{machine(report)}{conv}{errors(report)}"
            + (f"## Pooling\n\n{pool}" if pool else ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", type=Path, metavar="JSON")
    parser.add_argument("--into", type=Path, metavar="FILE")
    args = parser.parse_args()
    text = "".join(tables(json.loads(path.read_text())) for path in args.reports)
    if not args.into:
        print(text, end="")
        return
    before, mark, rest = args.into.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        sys.exit(f"{args.into} lacks the line {BEGIN if not mark else END}")
    args.into.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


if __name__ == "__main__":
    main()
