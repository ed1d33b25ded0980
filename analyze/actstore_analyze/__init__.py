"""The measures of actstore: pure functions on arrays, their figures and the report.

>>> import actstore_analyze
>>> actstore_analyze.measures()[:2]
['attention', 'cka']
"""

from typing import TYPE_CHECKING

from actstore import process
from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.calls import explore, measure, measures, write_report
    from actstore_analyze.measured import Measured

__all__ = ["Measured", "explore", "measure", "measures", "write_report"]

process.have_home()  # altair looks for one at import

__getattr__, __dir__ = handed_on(__name__, __all__, "calls", Measured="measured")
