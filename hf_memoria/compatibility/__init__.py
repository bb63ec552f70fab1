"""What is used of other packages that they do not promise to keep, with a check each."""

from hf_memoria.compatibility.interface import Interface
from hf_memoria.compatibility.interfaces import INTERFACES, check_interfaces

__all__ = ["INTERFACES", "Interface", "check_interfaces"]
