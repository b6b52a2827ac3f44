"""Ways to damage bytes, text and values, drawn from a random generator."""

import json

WORDS = [
    b"\0",
    b"\xff" * 8,
    b"\xef\xbb\xbf",
    b"\r",
    b"\n\n",
    b'"',
    b",",
    b";",
    b"[",
    b"{",
    b"../",
    b"NaN",
    b"-1",
    b"1e999",
    b"0" * 300,
]
#: what a value of JSON or YAML becomes
VALUES = [
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "a\0b",
    "\ud800",
    [],
    {},
    [[]],
    {"a": {"a": 1}},
    "../../etc",
]


def pick(rng, values):
    return values[int(rng.integers(len(values)))]


def damage(rng, content, other=b""):
    """Bytes after one to four changes: flipped, cut, repeated, overwritten, moved or spliced with another file's."""
    content = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        size = max(1, len(content))
        place, length = int(rng.integers(size)), int(rng.integers(1, max(2, size // 4)))
        # headers are short and decide most: half of the changes are made there
        place = place % min(size, 256) if rng.random() < 0.5 else place
        way = pick(rng, ["flip", "flip", "cut", "end", "repeat", "noise", "word", "splice", "zeros", "move"])
        if way == "flip" and content:
            content[place] ^= 1 << int(rng.integers(8))
        elif way == "cut":
            del content[place : place + length]
        elif way == "end":
            del content[place:]
        elif way == "repeat":
            content[place:place] = content[place : place + length]
        elif way == "noise":
            content[place : place + min(length, 64)] = rng.bytes(min(length, 64))
        elif way == "word":
            content[place:place] = pick(rng, WORDS)
        elif way == "splice" and other:
            start = int(rng.integers(len(other)))
            content[place : place + length] = other[start : start + length]
        elif way == "zeros":
            content[place : place + length] = bytes(min(length, size - place))
        elif way == "move":
            part = content[place : place + length]
            del content[place : place + length]
            spot = int(rng.integers(len(content) + 1))
            content[spot:spot] = part
    return bytes(content)


def places(value, path=()):
    """Paths of everything inside nested lists and mappings."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def other_value(rng, value):
    """Nested lists and mappings with one to three values, or keys, of another kind."""
    value = json.loads(json.dumps(value))
    for _ in range(int(rng.integers(1, 4))):
        path = pick(rng, list(places(value)))
        if not path:
            if rng.random() < 0.2:
                return pick(rng, VALUES)
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        way = pick(rng, ["other", "other", "other", "gone", "added", "repeated"])
        if way == "gone" or (way == "repeated" and isinstance(holder, list)):
            held = holder[path[-1]]
            del holder[path[-1]]
            if way == "repeated":
                holder += [held, held]
        elif way == "added" and isinstance(holder, dict):
            holder[pick(rng, ["more", "", "__class__", "train"])] = pick(rng, VALUES)
        else:
            holder[path[-1]] = pick(rng, VALUES)
    return value
