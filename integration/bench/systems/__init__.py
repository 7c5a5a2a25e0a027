"""The filesystems that can be measured, each brought up on this machine alone and taken down again."""

from .base import System, Unavailable
from .dfs import Dfs
from .glusterfs import GlusterFs
from .juicefs import JuiceFs
from .local import Local
from .moosefs import MooseFs
from .seaweedfs import SeaweedFs

ALL = {system.name: system for system in (Dfs, Local, MooseFs, JuiceFs, SeaweedFs, GlusterFs)}

__all__ = ["ALL", "System", "Unavailable"]
