"""Units, counting words and numerals in scripts other than Latin, with the names used in ``units``."""

from __future__ import annotations

import re

# Measures are translated, so that quantities are compared and converted; counting words are not.
_MEASURES = """
mm: мм 毫米 公厘 ミリメートル 밀리미터
cm: см 厘米 公分 センチメートル センチ 센티미터
m: м метр метра метров 米 公尺 メートル 미터
km: км километр километра километров किमी كم 千米 公里 キロメートル キロ 킬로미터
mg: мг 毫克
g: г грамм грамма граммов 克 グラム 그램
kg: кг килограмм килограмма килограммов 千克 公斤 キログラム 킬로그램
s: с сек секунд секунда секунды 秒 秒钟 秒鐘 초 ثانية सेकंड
min: мин минут минута минуты 分钟 分鐘 분 λεπτό λεπτά دقيقة دقائق मिनट
h: ч час часа часов 小时 小時 時間 시간 ώρα ώρες ساعة ساعات घंटा घंटे
day: день дня дней 天 日 일 दिन يوم أيام
week: неделя недели недель 周 週 週間 星期 주
month: месяц месяца месяцев 个月 個月 ヶ月 か月 개월
year: год года лет 年 년
ml: мл 毫升 ミリリットル
l: л литр литра литров 升 公升 リットル 리터
yuan: 元 块 圆 人民币
rupee: रुपये रुपए
rouble: руб рубль рубля рублей
won: 원
yen: 円
ton: т тонна тонны тонн 吨 噸 トン 톤
"""
_COUNTED = """
штук шт штуки человек человека раз раза 个 個 人 名 位 只 隻
本 枚 颗 岁 歳 回 次 点 台 张 張 件 条 匹 辆 朵 分 つ 冊 개 명
권 마리 살 번 점
"""
_SCALES = {
    "万": 10**4, "萬": 10**4, "만": 10**4, "亿": 10**8, "億": 10**8, "억": 10**8, "兆": 10**12,
    "тыс": 1000, "тысяча": 1000, "тысячи": 1000, "тысяч": 1000,
    "млн": 10**6, "миллион": 10**6, "миллиона": 10**6, "миллионов": 10**6,
    "млрд": 10**9, "миллиард": 10**9, "миллиарда": 10**9, "миллиардов": 10**9,
    "χιλιάδες": 1000, "εκατομμύρια": 10**6, "हज़ार": 1000, "हजार": 1000, "लाख": 10**5, "करोड़": 10**7,
    "ألف": 1000, "مليون": 10**6,
}  # fmt: skip
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
_COMPOUND = rf"{_UNIT}(?:\^\{{?[23]\}}?)?(?:\s?/\s?{_UNIT}(?:\^\{{?[23]\}}?)?)?"
_WHOLE = re.compile(_COMPOUND, re.IGNORECASE)
_SUFFIX = re.compile(rf"(?<=[0-9)}}\]])\s{{0,4}}(?P<unit>{_COMPOUND})\.?$", re.IGNORECASE)
_DEGREES = re.compile(r"(?<=\d)\s?(?:度|도|градус(?:а|ов)?|μοίρες|डिग्री|درجة)$")
_WORD = re.compile(_UNIT, re.IGNORECASE)
_SCALE = re.compile(
    rf"(?<=\d)\s{{0,4}}(?:{'|'.join(sorted(_SCALES, key=len, reverse=True))})(?![^\W\d_])\.?|(?<=\d)[万萬만亿億억]"
)
# One to three words that are not in the table, and parts of them that may change or negate the value or offer another.
_LETTER = r"[^\W\d_A-Za-z]"
_INNER = r"(?:[^\W\d_]|[\u0300-\u036f\u0900-\u0dff]){0,20}"
_WORDS = re.compile(rf"(?<=[0-9)}}\]])\s{{0,4}}(?P<unit>{_LETTER}{_INNER}\.?(?: {_LETTER}{_INNER}){{0,2}})$")
_CHANGES = re.compile(
    r"[吗嗎万萬亿億兆千百十半多余餘不非无無未没沒约約近超过過上下前后後左右或和与與至到点點倍错錯誤对對正负負零一二三四五六七八九〇两兩是否のではがをにならま]"
    r"|[만억천백조반]|아[니닙닌님]|않|이상|이하|미만|초과|없|이다|입니다|또는"
    r"|(?:^|\s)(?:не|нет|или|и|минус|плюс|до|от|пол\w*)\b|тыс|миллион|миллиард|млн|млрд|сотн|десят|больш|меньш|более|менее"
    r"|ошиб|верн|процент|степен|корн|дюжин|целых|\b(?:один|два|три|четыре|пять|шесть|семь|восемь|девять)\b"
    r"|(?:^|\s)(?:όχι|δεν|ή|και)\b|χιλι|εκατ|λιγότερ|περισσότερ|μισό|λάθος"
    r"|(?:^|\s)(?:ليس|لا|غير|أو|و)\b|ألف|آلاف|مليون|مليار|مئة|أقل|أكثر|نصف|خطأ"
    r"|नहीं|हज़ार|हजार|लाख|करोड़|सौ|कम|अधिक|ज़्यादा|ज्यादा|आधा|गलत|ग़लत"
    r"|לא|אלף|מיליון|או|חצי|ไม่|พัน|หมื่น|แสน|ล้าน|ร้อย|หรือ",
    re.IGNORECASE,
)


def split(text: str) -> tuple[str, str]:
    """A number and the unit that follows it: ``3小时`` gives ``3`` and ``h``, ``7 км/ч`` gives ``7`` and ``km/h``.

    Words that are not in the table are returned unchanged if nothing in them may change the value.
    """
    if text.isascii():
        return text, ""
    match = _SUFFIX.search(text)
    if match is not None:
        return text[: match.start()].rstrip(), latin(match["unit"])
    match = _WORDS.search(text)
    if match is None or not droppable(match["unit"]):
        return text, ""
    return text[: match.start()].rstrip(), match["unit"].rstrip(".").casefold()


def latin(unit: str) -> str:
    """A unit with the names used in ``units``; unchanged if it is not in the table."""
    return unit if unit.isascii() else _WORD.sub(_translated, unit) if _WHOLE.fullmatch(unit) else unit.casefold()


def droppable(words: str) -> bool:
    """Whether words in other scripts do not change the value of the number before them."""
    return words.isascii() or bool(_WHOLE.fullmatch(words.strip())) or not _CHANGES.search(words)


def scaled(text: str) -> str:
    """``3万`` and ``3 тыс.`` as products, ``90度`` with a degree sign."""
    if text.isascii():
        return text
    text = _SCALE.sub(lambda match: f" \\cdot {_SCALES[match.group().strip(' .').lower()]} ", text)
    return _DEGREES.sub(r"^{\\circ}", text)


def _translated(match: re.Match[str]) -> str:
    word, power = match.group().lower(), ""
    for name, latin in _POWERS.items():
        if word.startswith(name) and word != name:
            word, power = word.removeprefix(name).lstrip(". "), latin
    return power + _TRANSLATED.get(word, word)
