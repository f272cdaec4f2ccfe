"""Types, contracts and helpers that every plugin author needs.

Put here what every other package may import: types, contracts, errors, losses, schedules, EMA,
seeding, files. This package imports no other package of semisam.
"""
