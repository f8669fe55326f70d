"""ctscan: an explained classifier of chest CT slices. For education and research, not for diagnosis.

    bytes --slices--> Slice --preprocess--> (1,S,S) --model.features--> (512,h,w) --model.head--> logits (4)
                        |          |                                        |                       |
                        |      Placement <---- gradcam: maps (4,h,w) <------+------ head's gradient +
                        |          |                                                                |
                        +----------+--> render: RGB --> page           Prediction <-- probabilities +

Torch is imported only where a tensor is meant: model, gradcam, graph, training, export, and inside the torch runtime.
"""

from ctscan.classifier import Classifier, Prediction
from ctscan.slices import Slice, UnreadableSlice, read_slice

__all__ = ["Classifier", "Prediction", "Slice", "UnreadableSlice", "read_slice"]
__version__ = "0.1.0"
