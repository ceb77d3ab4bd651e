"""The paper in miniature: its tables and figures made again, on Toybox or on whatever a budget names."""
