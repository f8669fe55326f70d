"""ctscan: an explained classifier of chest CT slices. For education and research, not for diagnosis.

    bytes --slices--> Slice --gate--> refused, in words
                        |      |
                        |  may be scored --preprocess--> (1,S,S) --model.features--> (512,h,w) --head--> logits (4)
                        |                      |                                         |                  |
                        |                  Placement <--- gradcam: maps (4,h,w) <--------+---- gradient ----+
                        |                      |                                                            |
                        +----------------------+--> render: RGB --> page       Prediction <-- probabilities +

A stranger's bytes are read in a process of their own (decoder).
Torch is imported only where a tensor is meant: model, gradcam, graph, training, export, and inside the torch runtime.
"""

from ctscan.errors import UnreadableSlice
from ctscan.inference.classifier import Classifier, Prediction
from ctscan.io.images import Slice, read_slice

__all__ = ["Classifier", "Prediction", "Slice", "UnreadableSlice", "read_slice"]
__version__ = "0.1.0"
