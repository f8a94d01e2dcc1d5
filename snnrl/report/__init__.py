"""The report of a run as one HTML page; what it is drawn from (``data``) needs nothing that draws."""
