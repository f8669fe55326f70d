"""Every sentence of the page that is not an answer: short, plain, exact."""

from __future__ import annotations

NAME = "ctscan"
STRIP = "Research and education only. Not for diagnosis."

UPLOAD = "Your slice"
UPLOAD_HINT = "Drop, paste or choose one axial chest CT slice: PNG, JPEG, WebP, BMP or TIFF, up to 16 MB."
PRIVACY = "Please use no picture that names a person. Nothing is kept: see About."
EXAMPLES = "Examples"
EXAMPLES_HINT = "Bundled slices of known origin. Their histology is not known; none is an example of a class."
CLEAR = "Clear"

EMPTY_SENTENCE = "No slice yet."
EMPTY_PICTURE = "Drop, paste or choose a slice, or take one of the examples."
TOO_LARGE = "This file is larger than 16 MB. Please export the single slice as PNG."

SCORES = "Model score, not calibrated"
NO_EVIDENCE = "no localised evidence"

CLASS_SHORT = {
    "adenocarcinoma": "A malignant lung cancer that begins in mucus-secreting glands.",
    "large_cell_carcinoma": "A malignant, fast-growing lung cancer of large, abnormal cells.",
    "squamous_cell_carcinoma": "A malignant lung cancer of the flat cells that line the bronchi.",
    "normal": "No cancer, as in the normal chests of the training data.",
}

CLASS_LONG = {
    "adenocarcinoma": (
        "Malignant. A common non-small cell lung cancer that begins in the glands that secrete mucus. Among lung "
        "cancers it is the kind seen more often in people who never smoked, and in women."
    ),
    "large_cell_carcinoma": (
        "Malignant. A fast-growing non-small cell lung cancer with large, abnormal cells. It is aggressive and "
        "spreads rapidly."
    ),
    "squamous_cell_carcinoma": (
        "Malignant. It arises from the squamous cells, the flat cells that line the bronchi, and is strongly linked "
        "to smoking."
    ),
    "normal": (
        "Not cancer. The design that this model follows counts scars, infections and benign nodules here, some of "
        "which need follow-up; the pictures it learned from are normal chests, so of scars, infections and nodules "
        "it has seen nothing."
    ),
}

SITE = (
    "The site in brackets (left lower lobe, left hilum) is where the tumours of this data set's cases sat. It is "
    "a property of that data, never of the disease and never a finding in the slice you upload. Each tumour class in "
    "the data is one site and one stage, so the score cannot be histology."
)

HOW_TO_READ = (
    (
        "The colours show what moved the score, not where a tumour is",
        "The map is Grad-CAM: for each place of the network's last layer it adds up what that place contributed to the "
        "score of one class. A bright place raised the score. That can be a tumour, a vessel, the spine or the edge "
        "of the picture. A map cannot tell whether the answer is right.",
    ),
    (
        "One scale for everything",
        "Colours are in the units of the score before it becomes a percentage (logits), with one fixed top for all "
        "classes and all slices: the 99th percentile of the positive values over the training slices. Above it colours "
        "saturate. Little evidence looks like little; where the peak stays under a tenth of the top, the page says "
        "“no localised evidence”.",
    ),
    (
        "Coarse by nature",
        "The network sees 224 × 224 pixels and its last layer has 7 × 7 cells, each of 32 pixels. The smooth "
        "picture is drawn between the centres of those cells; nothing finer was computed.",
    ),
    (
        "Left and right",
        "Slices are shown as radiologists look at them, from the feet: the patient's left is at the right of the "
        "picture, the front is at the top. ctscan does not turn a slice that was saved another way.",
    ),
    (
        "What the model saw",
        "Before the network the slice is cropped to the body, and the greys inside it are spread evenly, so that the "
        "window a slice was saved in matters less. The small picture shows exactly those pixels.",
    ),
    (
        "The scores",
        "Four numbers that sum to 100 %. They are not calibrated: 90 % does not mean right nine times in ten. They "
        "are given for whatever is uploaded, and mean nothing for a picture that is not an axial chest CT slice.",
    ),
)

LEAK = (
    "The published split of this data leaks: neighbouring slices of the same scans stand in train and in test. These "
    "numbers say how well the model knows these scans, not how it would do on a new patient."
)

KEPT_NOTHING = (
    "Nothing is kept. There is no account, no history, no analytics and no sharing. An upload is read from a temporary "
    "folder that only this program may open and that deletes it after ten to eleven minutes at the latest; results "
    "live in your browser alone and go when the page is closed or cleared. File names are not shown, logged or used."
)
