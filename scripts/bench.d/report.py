"""Figures for people and for programs."""

import statistics


def heading(facts, options):
    lines = [
        f"{facts['cidfs']} against {facts['filesystem']}, Linux {facts['kernel']}, "
        f"{facts['cores']} × {facts['processor']}, {facts['memory']}, load {facts['load_at_start']:.1f}",
        f"medians of {options.runs} pairs (A B A B …); file {options.file_mib} MiB, tree "
        f"{options.tree_files} files, folder {options.dir_names} names",
        "",
        f"{'workload':<20}{'disk':>20}{'cidfs':>20}{'time ratio':>12}{'lowest–highest':>18}{'bare':>8}",
    ]
    return "\n".join(lines)


def rows(results, workload):
    return "\n".join(row(result) for result in results if result.workload is workload)


def row(result):
    figures = summary(result)
    rates = [f"{rate:,.0f} {result.workload.unit}/s"
             for rate in (figures["disk_per_s"], figures["cidfs_per_s"])]
    spread = f"{figures['ratio_min']:.2f}–{figures['ratio_max']:.2f}"
    name = f"{result.workload.name} {result.phase}"
    bare = f"{figures['bare_ratio']:>8.2f}" if result.bare_s else ""
    return f"{name:<20}{rates[0]:>20}{rates[1]:>20}{figures['ratio']:>12.2f}{spread:>18}{bare}"


def limit_rows(figures):
    return "\n".join(limit_row(figure) for figure in figures)


def limit_row(figure):
    name = f"{figure.limit.name} {figure.phase}"
    spread = f"{min(figure.values):.2f}–{max(figure.values):.2f}"
    most = f"at most {figure.most:.4g}"
    return f"{name:<20}{most:>20}{figure.median:>14.2f} {figure.unit:<5}{'':>12}{spread:>18}"


def notes(measured):
    lines = ["", "A ratio of 2 means: cidfs took twice the time; bare is the ratio of a filesystem that only answers "
             "from memory (bare/main.rs). How it was measured:"]
    return "\n".join(lines + [f"  {one.name}: {one.method}" for one in measured])


def summary(result):
    ratios = [ours / theirs for theirs, ours in zip(result.disk_s, result.cidfs_s, strict=True)]
    bare = [bare / disk for disk, bare in zip(result.disk_s, result.bare_s, strict=False)]
    return {
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "bare_ratio": statistics.median(bare) if bare else None,
        "disk_per_s": result.amount / statistics.median(result.disk_s),
        "cidfs_per_s": result.amount / statistics.median(result.cidfs_s),
    }


def document(facts, options, results, figures):
    """Everything, with the time of each run, so that other statistics can be made of it."""
    return {
        "machine": facts,
        "runs": options.runs,
        "sizes": {
            "file_mib": options.file_mib,
            "tree_files": options.tree_files,
            "dir_names": options.dir_names,
            "blocks": options.blocks,
        },
        "figures": [
            {
                "workload": result.workload.name,
                "phase": result.phase,
                "method": result.workload.method,
                "unit": result.workload.unit,
                "amount": result.amount,
                **summary(result),
                "disk_s": result.disk_s,
                "cidfs_s": result.cidfs_s,
                "bare_s": result.bare_s,
            }
            for result in results
        ],
        "limits": [
            {
                "name": figure.limit.name,
                "phase": figure.phase,
                "method": figure.limit.method,
                "unit": figure.unit,
                "most": figure.most,
                "median": figure.median,
                "values": figure.values,
            }
            for figure in figures
        ],
    }
