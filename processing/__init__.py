"""Raw samples to model inputs: serializers, collation and the processor."""

from .collation import HighMMTBatch, to_device
from .kinds import SERIALIZERS
from .processing_highmmt import HighMMTProcessor
from .serializers import Elements, ElementShape, Serializer

__all__ = ["SERIALIZERS", "ElementShape", "Elements", "HighMMTBatch", "HighMMTProcessor", "Serializer", "to_device"]
