"""Where bytes are, or records go: on this machine, in a standard stream, at a store, in a table. Formats know no
difference between places of files.
"""

from mistill.datasets.places.finding import expand, place_of, target_of
from mistill.datasets.places.place import Place, Target

__all__ = ["Place", "Target", "expand", "place_of", "target_of"]
