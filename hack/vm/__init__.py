"""A virtual machine with a kernel of its own, for what containers cannot show: limits of cgroup v2."""

from .image import Image, ImageError, ensure_image
from .machine import MachineError, run_machine

__all__ = ["Image", "ImageError", "MachineError", "ensure_image", "run_machine"]
