"""Phrases that announce an answer in other languages: 答案是 12, Ответ: 12, la respuesta es 12."""

from __future__ import annotations

import re

_PHRASE = re.compile(
    r"(?<![不别別勿非])故?(?:应|應)?[选選](?:择|擇|项|項)?\s{0,4}[:：]?\s{0,4}(?=[(（]?[A-J][)）]?(?:\W|$))"
    r"|(?:最终|最終)?(?:答案|答え|答)\s{0,4}(?:是|为|為|は|[:：])\s{0,4}[:：]?|(?:정답|답)\s{0,4}(?:은|[:：])"
    r"|ответ\s{0,4}(?:[:：=—–-]|равен\b)|απάντηση\s{0,4}(?:[:：]|είναι\b)|(?:الجواب|الإجابة)\s{0,4}(?:[:：]|هو\b|هي\b)"
    r"|उत्तर\s{0,4}(?:[:：]|है)|r[ée]ponse\s{0,4}(?:[:：]|(?:finale\s{1,4})?est\b(?:\s{0,4}:)?)"
    r"|\b(?:respuesta|resposta|risposta|antwort)\s{0,4}(?:[:：]|(?:final\w?\s{1,4})?(?:es|é|è|ist|lautet)\b(?:\s{0,4}:)?)"
    r"|\b(?:odpowiedź|відповідь|odpověď|răspuns(?:ul)?|válasz|yanıt|đáp\s{1,2}(?:án|số)|câu\s{1,2}trả\s{1,2}lời)"
    r"\s{0,4}(?:[:：=—–-]|(?:to|je|este|là)\b(?:\s{0,4}:)?)|\bodpowiedzią\s{1,4}jest\b"
    r"|คำตอบ\s{0,4}(?:คือ|[:：])|(?:תשובה|پاسخ|উত্তর)\s{0,4}[:：]",
    re.IGNORECASE,
)
# "The result is": counts where nothing is called the answer.
_RESULT = re.compile(
    r"(?:最终|最終)?(?:结果|結果)\s{0,4}(?:是|为|為|は|[:：])\s{0,4}[:：]?|\bитого\s{0,4}[:：—–-]"
    r"|\b(?:lösung|ergebnis|resultado|solución|solução|résultat|risultato|soluzione|wynik|výsledek)"
    r"\s{0,4}(?:[:：]|(?:final\w?\s{1,4})?(?:es|é|è|est|ist|lautet|to|je)\b(?:\s{0,4}:)?)",
    re.IGNORECASE,
)
_STEMS = (
    "选 選 答 답 твет πάντηση جواب إجابة उत्तर ponse espuesta esposta isposta ntwort dpowied ідповід dpově ăspuns álasz"
    " anıt áp rả คำตอบ תשובה پاسخ উত্তর 结果 結果 того ösung rgebnis esultado oluci oluç ésultat isultato oluzione"
    " ynik ýsledek"
).split()
_STOP = re.compile(r"[。！？\n]|\.(?=\s|$)")
_COPULA = re.compile(r"(?:です|だ|である|입니다|이다)$")


def announced_answer(text: str) -> str | None:
    """The answer after the last such phrase, up to the end of its sentence; None without a phrase."""
    if not any(stem in text for stem in _STEMS):
        return None
    ends = [match.end() for match in _PHRASE.finditer(text)] or [match.end() for match in _RESULT.finditer(text)]
    if not ends:
        return None
    tail = text[ends[-1] : ends[-1] + 2_000].strip(" *:：\t\n\"“”'「」")
    sentence = _STOP.split(tail, maxsplit=1)[0].strip(" *")
    return _COPULA.sub("", sentence).strip()
