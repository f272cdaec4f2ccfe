"""The vocabulary of a plugin's author: types, contracts, errors, losses, schedules, EMA, files.

Here lives what every other package may import. It imports nothing of semisam but itself.
"""
