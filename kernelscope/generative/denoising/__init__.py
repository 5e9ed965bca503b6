"""Denoisers: networks that take noise out of points, their closed forms, and how they are recorded."""
