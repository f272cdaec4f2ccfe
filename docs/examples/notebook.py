"""Train, predict an array, compare two methods: the whole of semisam from Python."""

import numpy as np

import semisam

small = {"phantom.size": 32, "phantom.cases": 6, "phantom.test_cases": 2}
how = {"iterations": 20, "patch": (16, 16, 16), "options": small}

run = semisam.train("runs/notebook/one", method="fixmatch", labels=2, **how)
model = semisam.load(run)
found = model.predict(np.random.default_rng(0).normal(size=(48, 48, 40)), spacing=(1, 1, 1.5))
print(found.labelmap.shape, model.class_names)

table = semisam.bench(
    ["supervised", "fixmatch"], labels=2, sams="none", out="runs/notebook/two", **how
)
print(table[["method", "labeled", "dice"]])
