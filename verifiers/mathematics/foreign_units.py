"""Units of measure and counting words in scripts other than Latin, by the names that ``units`` knows."""

from __future__ import annotations

import re

# A measure is translated, so that quantities are compared and converted; a counting word stands for itself.
_MEASURES = """
mm: мм 毫米 公厘 ミリメートル 밀리미터
cm: см 厘米 公分 センチメートル センチ 센티미터
m: м метр метра метров 米 公尺 メートル 미터
km: км километр километра километров 千米 公里 キロメートル キロ 킬로미터
mg: мг 毫克
g: г грамм грамма граммов 克 グラム 그램
kg: кг килограмм килограмма килограммов 千克 公斤 キログラム 킬로그램
s: с сек секунд секунда секунды 秒 秒钟 秒鐘 초
min: мин минут минута минуты 分钟 分鐘 분
h: ч час часа часов 小时 小時 時間 시간
day: день дня дней 天 日 일
week: неделя недели недель 周 週 週間 星期 주
month: месяц месяца месяцев 个月 個月 ヶ月 か月 개월
year: год года лет 年 년
ml: мл 毫升 ミリリットル
l: л литр литра литров 升 公升 リットル 리터
yuan: 元 块 圆
yen: 円
ton: т тонна тонны тонн 吨 噸 トン 톤
"""
_COUNTED = """
штук шт штуки человек человека руб рубль рубля рублей раз раза 个 個 人 名 位 只 隻
本 枚 颗 岁 歳 回 次 点 台 张 張 件 条 匹 辆 朵 分 つ 冊 개 명 원
권 마리 살 번 점
"""
_POWERS = {"平方": "square ", "立方": "cubic ", "кв": "square ", "куб": "cubic "}
_TRANSLATED = {
    name: unit.strip()
    for line in _MEASURES.strip().splitlines()
    for unit, _, names in [line.partition(":")]
    for name in names.split()
}
_KNOWN = {*_TRANSLATED, *_COUNTED.split()}
_NAMES = "|".join(sorted(map(re.escape, _KNOWN), key=len, reverse=True))
_UNIT = rf"(?:(?:平方|立方|кв\.? ?|куб\.? ?)?(?:{_NAMES}))"
_SUFFIX = re.compile(
    rf"(?<=[0-9)}}\]])\s{{0,4}}(?P<unit>{_UNIT}(?:\^\{{?[23]\}}?)?(?:\s?/\s?{_UNIT}(?:\^\{{?[23]\}}?)?)?)\.?$",
    re.IGNORECASE,
)
_WORD = re.compile(_UNIT, re.IGNORECASE)


def split(text: str) -> tuple[str, str]:
    """A number and the unit that follows it: ``3小时`` gives ``3`` and ``h``, ``7 км/ч`` gives ``7`` and ``km/h``."""
    match = None if text.isascii() else _SUFFIX.search(text)
    if match is None:
        return text, ""
    return text[: match.start()].rstrip(), _WORD.sub(_translated, match["unit"])


def _translated(match: re.Match[str]) -> str:
    word, power = match.group().lower(), ""
    for name, latin in _POWERS.items():
        if word.startswith(name) and word != name:
            word, power = word.removeprefix(name).lstrip(". "), latin
    return power + _TRANSLATED.get(word, word)
