"""Answer -> the sentence and the four rows, as HTML."""

from __future__ import annotations

from html import escape

from ctscan.classes import CLASSES, NORMAL
from ctscan.inference.answer import Answer
from ctscan.inference.classifier import Prediction
from ctscan.page import words


def percent(probability: float) -> str:
    """One decimal, and never a certainty: `97.3 %`, `<0.1 %`, `>99.9 %`, with a space that does not break."""
    if probability < 0.001:
        return "<0.1\u00a0%"
    if probability > 0.999:
        return ">99.9\u00a0%"
    return f"{100 * probability:.1f}\u00a0%"


def sentence(answer: Answer, origin: str = "", *, withdrawn: bool = False) -> str:
    """What the answer is, in one sentence, with the notices.

    `origin` says what slice this is, `withdrawn` whether "normal" is no claim about the chest.
    """
    notices = "".join(f'<p class="notice">{escape(n)}</p>' for n in answer.notices)
    if answer.prediction is None:
        return without_scores(answer, origin, notices)
    unusual = answer.verdict == "unusual"
    warning = f'<p class="warning">{escape(words.UNUSUAL)}</p>{notices}' if unusual else ""
    if unusual:
        said = f"<h2>{escape(words.NO_ANSWER)}</h2><p>{escape(words.NO_ANSWER_WHY)}</p>"
    else:
        said = uncertain(answer.prediction) if answer.prediction.uncertain else likeliest(answer.prediction)
    kind = " unusual" * unusual
    if withdrawn and not unusual and says_normal(answer.prediction):
        said += f"<p>{escape(words.NORMAL_WITHDRAWN)}</p>"
    return f'<section class="sentence{kind}">{origin_line(origin)}{warning}{said}{"" if unusual else notices}</section>'


def likeliest(prediction: Prediction) -> str:
    """One class, and where there are sets, that it is the only one left."""
    top, share = CLASSES[prediction.top], percent(float(prediction.probabilities[prediction.top]))
    known = prediction.possible is not None
    text = f"{words.CLASS_SHORT[top.key]} {(words.LIKELIEST if known else words.LIKELIEST_RAW).format(share=share)}"
    return (
        f"<h2>Looks most like <b>{escape(top.title)}</b></h2><p>{escape(text)}</p>"
        f"{f'<p>{escape(words.SINGLE)}</p>' * known}"
    )


def says_normal(prediction: Prediction) -> bool:
    """Whether the class normal is named in the answer."""
    named = (prediction.possible or ()) if prediction.uncertain else (prediction.classes[prediction.top],)
    return CLASSES[NORMAL].key in named


def uncertain(prediction: Prediction) -> str:
    """All classes that remain possible, or that none does."""
    top, share = CLASSES[prediction.top], percent(float(prediction.probabilities[prediction.top]))
    left = [shown.title for shown in CLASSES if shown.key in (prediction.possible or ())]
    title, why = (words.UNCERTAIN, words.UNCERTAIN_WHY) if left else (words.UNCERTAIN_NONE, words.UNCERTAIN_NONE_WHY)
    names = "".join(f" <b>{escape(name)}</b>" for name in left)
    return f"<h2>{escape(title)}{names}</h2><p>{escape(why.format(title=top.title, share=share))}</p>"


def without_scores(answer: Answer, origin: str, notices: str) -> str:
    """Why there are no scores: the file is no picture that can be read, or no slice that may be scored."""
    refused = answer.verdict == "refused"
    title, more = (words.REFUSED, f"<p>{escape(words.REFUSED_WHY)}</p>") if refused else (words.UNREADABLE, "")
    return f'<section class="sentence refused">{origin_line(origin)}<h2>{title}</h2>{notices}{more}</section>'


def origin_line(origin: str) -> str:
    """A small line above the answer."""
    return f'<p class="small">{escape(origin)}</p>' if origin else ""


def rows(answer: Answer) -> str:
    """Name, number and bar of each class."""
    if answer.prediction is None:
        return ""
    known = answer.prediction.possible is not None
    title = words.SCORES_UNUSUAL if answer.verdict == "unusual" else words.SCORES if known else words.SCORES_RAW
    lines = "".join(row(answer.prediction, index) for index in range(len(CLASSES)))
    return f'<section class="scores"><h3>{title}</h3><ul>{lines}</ul></section>'


def row(prediction: Prediction, index: int) -> str:
    """One class."""
    shown, share = CLASSES[index], float(prediction.probabilities[index])
    left = prediction.uncertain and shown.key in (prediction.possible or ())
    note = f'<small class="left">{words.IN_SET}</small>' if left else ""
    mark = ' class="top"' if index == prediction.top else ""
    return (
        f'<li{mark}><span class="name">{escape(shown.title)}{note}</span> '
        f'<span class="number">{escape(percent(share))}</span>'
        f'<span class="meter" aria-hidden="true"><span style="width:{100 * share:.2f}%"></span></span></li>'
    )


EMPTY_SENTENCE = f'<section class="sentence"><h2>{words.EMPTY_SENTENCE}</h2></section>'
# the page's script puts the reason in place of REASON
NOT_ANSWERED = '<section class="sentence failed"><h2>Not answered</h2><p class="notice">REASON</p></section>'
