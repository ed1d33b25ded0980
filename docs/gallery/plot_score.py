"""
Scores
======

What two models said, against the true answers: the difference of their scores, over the samples of both.
"""

import actstore

asked = {"task": "answers", "minus_store": "demo/gated"}
found = actstore.open("demo/fusion").measure.score("from samples where prompt_order = 'image-text'", **asked)
figure = found.figure.chart
print(found.command)
