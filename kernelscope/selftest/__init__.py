"""What goes wrong in the world, tried on this machine: kills, full disks, flipped bits, hostile files, bad numbers.

A row of the battery is one kind of fault, and gives trials. A trial is survived where its result equals that without
the fault, or where a typed error finishes the sentence and nothing acknowledged is lost. It is broken where an untyped
error, a crash or a hang came, or where something was lost. It is silent where the answer is wrong and nobody says so:
the one number that must be 0.
"""

from .battery import Battery, run_battery
from .row import TYPED, Done, Lost, NotTried, Row, Silent, Trial, refused, same

__all__ = ["TYPED", "Battery", "Done", "Lost", "NotTried", "Row", "Silent", "Trial", "refused", "run_battery", "same"]
