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
BUSY = "ctscan is busy: 16 slices are waiting. Please try again in a moment."
STOPPING = "ctscan is being stopped and takes no new slices. Please try again in a few minutes."
FAILED = "ctscan could not answer, and has kept nothing. Please try again."
TOO_LARGE = "This file is larger than 16 MB. Please export the single slice as PNG."
NO_FORM = "A file is uploaded as multipart/form-data."
NO_JSON = "This request is no JSON."
LONG_QUESTION = "This request is longer than 64 KB; a file must be uploaded first."
NOT_UPLOADED = "A file must be uploaded first; addresses and other paths are not read."

UNREADABLE = "Not read"
REFUSED = "No score given"
REFUSED_WHY = (
    "ctscan scores upright axial chest CT slices alone. For anything else its four classes mean nothing, so it gives "
    "none."
)
ALONE = "The picture, as it was read"
UNUSUAL = "Unusual slice: what was measured of this model does not hold for it."
NO_ANSWER = "No answer: unlike the pictures it learned from"
NO_ANSWER_WHY = "Scores and maps show what a network says when it is asked out of its depth."

SCORES = "Probability, calibrated"
SCORES_RAW = "Model score, not calibrated"
SCORES_UNUSUAL = "Raw model scores"
LIKELIEST = "Calibrated probability {share}."
LIKELIEST_RAW = "Model score {share}, not calibrated."
SINGLE = "ctscan lists no other class; such lists still miss the right one at times: see “How to read it”."
UNCERTAIN = "Uncertain: it may be any of these"
UNCERTAIN_WHY = "The model cannot rule these out, so it gives no single answer. The likeliest is {title}, {share}."
UNCERTAIN_NONE = "Uncertain: none of the four classes"
UNCERTAIN_NONE_WHY = (
    "No class is as likely here as it usually is for slices of it, so the model gives no answer. The likeliest is "
    "{title}, {share}."
)
IN_SET = "cannot be ruled out"
NO_EVIDENCE = "no localised evidence"

CLASS_SHORT = {
    "adenocarcinoma": "A malignant lung cancer that begins in mucus-secreting glands.",
    "large_cell_carcinoma": "A malignant, fast-growing lung cancer of large, abnormal cells.",
    "squamous_cell_carcinoma": "A malignant lung cancer of the flat cells that line the bronchi.",
    "normal": "Looks like the normal chests of the training data. That does not rule out cancer.",
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
        "Says nothing about cancer. The design that this model follows counts scars, infections and benign nodules "
        "here, some of which need follow-up; the pictures it learned from are normal chests, so of scars, infections "
        "and nodules it has seen nothing."
    ),
}

HISTOLOGY = "Each tumour class in the data is one stage and one source, so the score cannot be histology."

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
        "The network sees {size} × {size} pixels and its last layer has {cells} × {cells} cells, each of 32 pixels. "
        "The smooth picture is drawn between the centres of those cells; nothing finer was computed.",
    ),
    (
        "Left and right",
        "Slices are shown as radiologists look at them, from the feet: the patient's left is at the right of the "
        "picture, the front is at the top. ctscan does not turn a slice that was saved another way.",
    ),
    (
        "What the model saw",
        "Before the network {crop}{surround}{tone}. The small picture shows exactly those pixels.",
    ),
    (
        "The scores",
        "Four numbers that sum to 100 %. {calibration} A picture that does not look like an upright axial chest CT "
        "slice is given none, and one that is unlike the slices the model learned from gets them with a warning; not "
        "all that should be refused is.",
    ),
)
CROPS = {
    "body": "the slice is cropped to the body",
    "lungs": "the slice is cropped to the lungs",
    "fill": "the slice is cropped to the body and stretched to a square",
    "whole": "the whole slice is scaled",
    "none": "the slice is squashed to a square",
}
SURROUNDS = {
    "keep": "",
    "black": ", what lies outside the body is made black",
    "hull": ", what lies outside the body's hull is made black",
    "oval": ", what lies outside an oval in the body is made black, the outermost rim of the lungs sometimes too",
    "chest": ", what lies outside the lungs and what is between them is made black",
}
TONES = {
    "equalise": ", and the greys inside it are spread evenly, so that the window a slice was saved in matters less",
    "rank": ", and each grey is replaced by its rank, so that brightness and contrast alone change little; what the "
    "window of a slice cut off to black or white stays cut off",
    "clipped_rank": ", and each grey is replaced by its rank, the brightest eighth all white, so that brightness and "
    "contrast alone change little; what the window of a slice cut off to black stays cut off",
    "matched": ", and its greys are moved, in their order, to one histogram, the same for every slice, so that "
    "brightness and contrast alone change little; what the window of a slice cut off to black or white stays cut off",
    "none": "; its greys stay as they are",
}
CALIBRATED = (
    "Their calibration was measured on sister networks of the model, on slices whose look-alikes these had not seen: "
    "there 90 % was right about nine times in ten. That holds less where nothing similar was learned, and not for "
    "another hospital's scans. Where more than one class, or none, remains possible, ctscan says “uncertain” and lists "
    "what cannot be ruled out: such lists aim to miss the right class in at most {miss:.0f} of 100 scans of this kind; "
    "how often they did stands under “How good is it?”."
)
NOT_CALIBRATED = "They are not calibrated: 90 % does not mean right nine times in ten."

LEAK = (
    "The published split of this data leaks: neighbouring slices of the same scans stand in train and in test. These "
    "numbers say how well the model knows these scans, not how it would do on a new patient: see “How good is it?”."
)

KEPT_NOTHING = (
    "Nothing is kept. There is no account, no history, no analytics and no sharing. An upload is read from a temporary "
    "folder that only this program may open and that deletes it after ten to eleven minutes at the latest; results "
    "live in your browser alone and go when the page is closed or cleared. File names are not written, shown, "
    "logged or used."
)

HOW_GOOD = "How good is it?"
NORMAL_WITHDRAWN = (
    "“Normal” here means: looks like the normal pictures of the training data. It does not mean a healthy chest, for a "
    "network that cannot see any disease tells those pictures apart too."
)
