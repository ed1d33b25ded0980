"""The measures of actstore: pure functions on arrays, their figures and the report."""
