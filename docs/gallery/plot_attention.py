"""
Cross-modal attention
=====================

Which image positions the text attends to.
"""

import actstore

found = actstore.open("demo/fusion").measure.attention(sql="from rows where prompt_order = 'image-text'")
figure = found.figure.chart
print(found.command)
