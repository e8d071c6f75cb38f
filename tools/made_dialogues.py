"""Seeded dialogues, tables and tool calls for tools/make_texts.py: own text with many numbers.

Two sets of wordings, so that calibration and evaluation share none. Everything stated is true:
sums, conversions and dates are computed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from datetime import date, timedelta

Maker = Callable[[random.Random], str]

NAMES = [
    "Ada",
    "Bram",
    "Chen",
    "Dora",
    "Emeka",
    "Fatima",
    "Goran",
    "Hana",
    "Ines",
    "Jonas",
    "Keiko",
    "Lena",
    "Malik",
    "Noor",
    "Olga",
]
GOODS = [
    "apples",
    "candles",
    "pencils",
    "lamps",
    "notebooks",
    "tiles",
    "bolts",
    "cups",
    "ropes",
    "maps",
    "stamps",
    "keys",
]
CITIES = [
    "Lyon",
    "Gdansk",
    "Porto",
    "Osaka",
    "Recife",
    "Bergen",
    "Trieste",
    "Izmir",
    "Hobart",
    "Quito",
    "Dakar",
    "Leeds",
]
WEEKDAYS = {
    "English": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "German": "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
    "French": "lundi mardi mercredi jeudi vendredi samedi dimanche",
    "Spanish": "lunes martes miércoles jueves viernes sábado domingo",
    "Italian": "lunedì martedì mercoledì giovedì venerdì sabato domenica",
}


def shopping(r: random.Random) -> str:
    """A word problem with its steps."""
    name, thing = r.choice(NAMES), r.choice(GOODS)
    count, price, paid = r.randint(3, 19), r.randint(12, 95), r.choice([20, 50, 100])
    cost = count * price
    answer = f"{count} times {price} cents are {cost} cents, or {cost / 100:.2f} euros. "
    if cost <= paid * 100:
        answer += f"From {paid} euros {paid - cost / 100:.2f} euros remain."
    else:
        answer += f"That is {cost / 100 - paid:.2f} euros more than the {paid} at hand."
    return (
        f"User: {name} buys {count} {thing} at {price} cents each and has {paid} euros."
        f" How much is left?\n\nAssistant: {answer}"
    )


def weather_call(r: random.Random) -> str:
    city, day = r.choice(CITIES), r.randint(1, 28)
    low = r.randint(-8, 18)
    high = low + r.randint(3, 12)
    rain = r.choice([0, 0, 1, 4, 12])
    call = {
        "name": "forecast",
        "arguments": {"city": city, "date": f"2024-{r.randint(1, 12):02}-{day:02}"},
    }
    reply = {"low": low, "high": high, "rain_mm": rain, "wind_kmh": r.randint(2, 60)}
    advice = "Take a raincoat." if rain > 3 else "It stays mostly dry."
    return (
        f"User: What will the weather be in {city}?\n\n"
        f"Assistant: <tool_call>\n{json.dumps(call)}\n</tool_call>\n\n"
        f"Tool: {json.dumps(reply)}\n\n"
        f"Assistant: Between {low} and {high} degrees, {rain} mm of rain and wind of"
        f" {reply['wind_kmh']} km/h. {advice}"
    )


def weekday(r: random.Random) -> str:
    day = date(2000, 1, 1) + timedelta(days=r.randint(0, 14000))
    language = r.choice(list(WEEKDAYS))
    word = WEEKDAYS[language].split()[day.weekday()]
    later = r.randint(8, 400)
    then = day + timedelta(days=later)
    return (
        f"User: Which weekday was {day.isoformat()}, in {language}?\n\nAssistant: {word}\n\n"
        f"User: And {later} days after that?\n\n"
        f"Assistant: {WEEKDAYS[language].split()[then.weekday()]}, {then.isoformat()}"
    )


def stock_table(r: random.Random) -> str:
    things = r.sample(GOODS, 4)
    rows = [(thing, r.randint(2, 90), r.randint(15, 900)) for thing in things]
    total = sum(count * price for _, count, price in rows)
    lines = [
        f"| {thing} | {count} | {price / 100:.2f} | {count * price / 100:.2f} |"
        for thing, count, price in rows
    ]
    first = rows[0]
    return "\n".join(
        [
            "User: Put the stock into a table with a column for the value: "
            + ", ".join(f"{count} {thing} at {price / 100:.2f}" for thing, count, price in rows)
            + ".",
            "",
            "Assistant:",
            "",
            "| article | pieces | price | value |",
            "|---|---|---|---|",
            *lines,
            "",
            f"Together the stock is worth {total / 100:.2f}; the {first[0]} alone"
            f" {first[1] * first[2] / 100:.2f}.",
        ]
    )


def log_lines(r: random.Random) -> str:
    at = r.randint(0, 80000)
    lines = []
    for _ in range(r.randint(5, 9)):
        at += r.randint(1, 900)
        clock = f"{at // 3600 % 24:02}:{at // 60 % 60:02}:{at % 60:02}"
        level = r.choice(["INFO", "INFO", "INFO", "DEBUG", "WARN", "ERROR"])
        what = r.choice(
            [
                f"worker {r.randint(0, 15)} took {r.uniform(0.2, 90):.1f} ms",
                f"GET /items/{r.randint(1, 9999)} {r.choice([200, 200, 304, 404, 503])}",
                f"cache holds {r.randint(10, 5000)} of 8192 entries",
                f"retry {r.randint(1, 5)} of 5 after {2 ** r.randint(0, 5)} s",
            ]
        )
        lines.append(f"{clock} {level:5} {what}")
    return "\n".join(lines)


def linear_equation(r: random.Random) -> str:
    a, x, b = r.randint(2, 12), r.randint(-15, 20), r.randint(-40, 60)
    right = a * x + b
    sign = "+" if b >= 0 else "-"
    return (
        f"User: Solve {a}x {sign} {abs(b)} = {right}.\n\n"
        f"Assistant: Move the constant to the other side: {a}x = {right}"
        f" {'-' if b >= 0 else '+'} {abs(b)} = {a * x}. "
        f"Divide by {a}: x = {x}. Check: {a} * ({x}) {sign} {abs(b)} = {right}."
    )


def csv_sum(r: random.Random) -> str:
    rows = [
        (r.choice(CITIES), r.randint(1, 400), r.randint(1, 400)) for _ in range(r.randint(3, 6))
    ]
    body = "\n".join(f"{city};{a};{b}" for city, a, b in rows)
    arrivals, departures = sum(a for _, a, _ in rows), sum(b for _, _, b in rows)
    return f"city;arrivals;departures\n{body}\nsum;{arrivals};{departures}"


def work_rate(r: random.Random) -> str:
    one, other = r.choice([(3, 6), (4, 12), (6, 12), (10, 15), (12, 24), (20, 30), (5, 20)])
    together = one * other / (one + other)
    first, second = r.sample(NAMES, 2)
    return (
        f"Question: {first} paints a fence in {one} hours, {second} needs {other}."
        f" Working side by side, when are they done?\nAnswer: In one hour they manage"
        f" 1/{one} + 1/{other} of the fence, so together it takes {together:g} hours."
    )


def unit_call(r: random.Random) -> str:
    value = r.randint(3, 900)
    kind, factor, source, target = r.choice(
        [
            ("length", 2.54, "in", "cm"),
            ("mass", 0.45359237, "lb", "kg"),
            ("volume", 3.785411784, "gal", "l"),
        ]
    )
    request = {
        "tool": "convert_units",
        "input": {"kind": kind, "value": value, "from": source, "to": target},
    }
    return (
        f"Question: {value} {source} in {target}?\n{json.dumps(request)}\n"
        f"{json.dumps({'result': round(value * factor, 4)})}\n"
        f"Answer: {value} {source} make {value * factor:.2f} {target}."
    )


def schedule(r: random.Random) -> str:
    start = r.randint(7, 11) * 60 + r.choice([0, 15, 30, 45])
    lines = []
    for what in r.sample(
        ["Anfahrt", "Besprechung", "Pause", "Messung", "Auswertung", "Abnahme"], 4
    ):
        length = r.choice([20, 30, 45, 60, 90])
        end = start + length
        times = f"{start // 60}:{start % 60:02} bis {end // 60}:{end % 60:02}"
        lines.append(f"- {times}: {what} ({length} Minuten)")
        start = end
    return "Ablauf am " + r.choice(WEEKDAYS["German"].split()) + "\n\n" + "\n".join(lines)


def settings(r: random.Random) -> str:
    document = {
        "service": r.choice(["mailer", "indexer", "gateway", "archiver"]),
        "replicas": r.randint(1, 12),
        "limits": {"memory_mb": 2 ** r.randint(7, 13), "cpu": round(r.uniform(0.25, 8), 2)},
        "regions": sorted(r.sample(CITIES, 3)),
        "retry": r.choice([None, {"times": r.randint(1, 9), "wait_s": r.randint(1, 60)}]),
    }
    return json.dumps(document, indent=2)


CALIBRATION: Sequence[Maker] = (
    shopping, weather_call, weekday, stock_table, log_lines, linear_equation
)  # fmt: skip
EVALUATION: Sequence[Maker] = (csv_sum, work_rate, unit_call, schedule, settings)


def dialogues(makers: Sequence[Maker], seed: int, size: int) -> list[str]:
    """Different texts of about ``size`` bytes together, each kind equally often."""
    source = random.Random(seed)
    found: dict[str, None] = {}
    total = 0
    for turn in range(100_000):
        text = makers[turn % len(makers)](source)
        if text not in found:
            found[text] = None
            total += len(text.encode()) + 2
        if total >= size:
            break
    return list(found)
