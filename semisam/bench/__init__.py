"""Many runs: study, grid, executors, results, tables, statistics, zero-shot, report.

Here lives what needs more than one run.
"""
