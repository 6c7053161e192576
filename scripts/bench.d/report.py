"""Figures for people and for programs."""

import statistics


def heading(facts, options):
    lines = [
        f"{facts['cidfs']} against {facts['filesystem']}, Linux {facts['kernel']}, "
        f"{facts['cores']} × {facts['processor']}, {facts['memory']}, load {facts['load_at_start']:.1f}",
        f"medians of {options.runs} pairs (A B A B …); file {options.file_mib} MiB, tree "
        f"{options.tree_files} files, folder {options.dir_names} names",
        "",
        f"{'workload':<20}{'disk':>20}{'cidfs':>20}{'time ratio':>12}{'lowest–highest':>18}",
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
    return f"{name:<20}{rates[0]:>20}{rates[1]:>20}{figures['ratio']:>12.2f}{spread:>18}"


def notes(workloads):
    lines = ["", "A ratio of 2 means: cidfs took twice the time. How it was measured:"]
    return "\n".join(lines + [f"  {workload.name}: {workload.method}" for workload in workloads])


def summary(result):
    ratios = [ours / theirs for theirs, ours in zip(result.disk_s, result.cidfs_s, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "disk_per_s": result.amount / statistics.median(result.disk_s),
        "cidfs_per_s": result.amount / statistics.median(result.cidfs_s),
    }


def document(facts, options, results):
    """Everything, with the time of each run, so that other statistics can be made of it."""
    return {
        "machine": facts,
        "runs": options.runs,
        "sizes": {
            "file_mib": options.file_mib,
            "tree_files": options.tree_files,
            "dir_names": options.dir_names,
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
            }
            for result in results
        ],
    }
