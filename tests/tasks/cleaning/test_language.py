import pytest

from flywheel.config.steps import Language
from flywheel.errors import ContractError
from tasks.cleaning.language import language
from tasks.cleaning.record import Texts

FOREIGN = {
    "nl": "Het is in de winter koud in Nederland en in de zomer is het warm. Of het dan regent is niet te zeggen, want het weer is altijd anders.",
    "af": "Die hond is in die huis en die kat is op die dak van die huis. As dit reën, is die kat nat en die hond droog, want die dak is oop.",
    "de": "Die Funktion gibt einen neuen Pfad zurück, in dem alle Teile verbunden sind. Man kann ihn dann in der Liste ersetzen.",
    "fr": "La fonction renvoie un nouveau chemin dont toutes les parties sont réunies. Si le chemin est absolu, on obtient une erreur.",
    "pt": "A função devolve um novo caminho com todas as partes unidas. Se o caminho for absoluto, ocorre um erro que pode ser tratado.",
    "da": "Funktionen giver en ny sti tilbage, hvor alle dele er sat sammen. Hvis stien er absolut, kommer der en fejl, som man kan behandle.",
    "ru": "Функция возвращает новый путь, в котором соединены все части. Если путь абсолютный, возникает ошибка.",
}
JUDGE = language(Language())


@pytest.mark.parametrize("code", FOREIGN)
def test_another_language_is_named_in_whichever_text_it_stands(code):
    for record in (Texts((), "What?", "", FOREIGN[code]), Texts((), FOREIGN[code], "", "Yes."), Texts((FOREIGN[code],), "What?", "", "Yes.")):
        assert JUDGE(record) == (record, f"a text is in another language ({code}) than en")


def test_allowed_and_short_texts_pass():
    both = language(Language(allow=("de", "en")))
    assert both(Texts((), "Was?", "", FOREIGN["de"]))[1] == ""
    assert both(Texts((), "Was?", "", FOREIGN["fr"]))[1].endswith("(fr) than de, en")
    assert JUDGE(Texts((), "Auf Deutsch bitte", "", "Guten Tag und auf Wiedersehen"))[1] == ""


def test_code_is_no_foreign_language():
    code = "def f(x):\n    return [y for y in x if y % 2 == 0 and y > len(self.items)]\n\nprint(f(range(10)))"
    assert JUDGE(Texts((), "Write it", "", code))[1] == ""


def test_an_unknown_language_is_refused():
    with pytest.raises(ContractError, match="`klingon` is not known"):
        language(Language(allow=("en", "klingon")))
