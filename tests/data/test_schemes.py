"""Schemes: each is detected, read as IOB2 like a naive decoder reads it, and broken tags are mended as stated."""

from __future__ import annotations

import random

import pytest

from hf_selfattn.data.labels import LabelError
from hf_selfattn.data.schemes import check_scheme, detect_form, detect_scheme, iob2_names, split_tag, to_iob2

Entity = tuple[int, int, str]

# The same sentences in each scheme: one word; three words; two that touch, of one type and of two.
ENTITIES: list[tuple[int, list[Entity]]] = [
    (4, [(0, 1, "PER")]),
    (5, [(1, 4, "ORG")]),
    (4, [(0, 2, "PER"), (2, 4, "PER")]),
    (4, [(0, 2, "PER"), (2, 3, "LOC")]),
    (2, []),
]


def write(length: int, entities: list[Entity], scheme: str) -> list[str]:
    """Write entities in a scheme, entity by entity."""
    tags = ["O"] * length
    begin, inside, end, single = {
        "IOB1": "IIII",
        "IOB2": "BIIB",
        "BIOES": "BIES",
        "BILOU": "BILU",
        "BMES": "BMES",
        "IO": "IIII",
    }[scheme]
    previous: Entity = (-1, -1, "")
    for start, stop, kind in entities:
        roles = single if stop - start == 1 else begin + inside * (stop - start - 2) + end
        if scheme == "IOB1" and previous[1:] == (start, kind):
            roles = "B" + roles[1:]
        tags[start:stop] = [kind if scheme == "IO" else f"{role}-{kind}" for role in roles]
        previous = (start, stop, kind)
    return tags


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES", "BILOU", "BMES", "IO"])
def test_each_scheme_is_detected_and_read_as_iob2(scheme: str) -> None:
    sentences = [write(length, entities, scheme) for length, entities in ENTITIES]
    assert detect_scheme(sentences).name == scheme
    for tags, (length, entities) in zip(sentences, ENTITIES, strict=True):
        if scheme == "IO" and entities == [(0, 2, "PER"), (2, 4, "PER")]:
            entities = [(0, 4, "PER")]  # without roles two touching entities are one
        assert to_iob2(tags, scheme) == (write(length, entities, "IOB2"), [])


def conlleval(tags: list[str]) -> list[str]:
    """Naive repair of IOB2: an I that follows no tag of its type becomes B."""
    fixed = list(tags)
    for i, tag in enumerate(tags):
        if tag.startswith("I-") and (i == 0 or tags[i - 1][2:] != tag[2:]):
            fixed[i] = "B" + tag[1:]
    return fixed


def test_random_iob2_is_mended_like_conlleval_and_then_legal() -> None:
    rng = random.Random(0)
    names = iob2_names(["LOC", "PER"])
    for _ in range(500):
        tags = [rng.choice(names) for _ in range(rng.randrange(1, 9))]
        fixed, broken = to_iob2(tags, "IOB2")
        assert fixed == conlleval(tags)
        assert [i for i, _ in broken] == [i for i in range(len(tags)) if fixed[i] != tags[i]]
        assert to_iob2(fixed, "IOB2") == (fixed, [])


@pytest.mark.parametrize(
    ("scheme", "tags", "fixed", "broken"),
    [
        ("BIOES", ["I-A", "E-A", "O"], ["B-A", "I-A", "O"], [0]),  # opened by I
        ("BIOES", ["B-A", "O"], ["B-A", "O"], [0]),  # never closed
        ("BIOES", ["B-A", "I-A"], ["B-A", "I-A"], [1]),  # never closed at the end
        ("BIOES", ["B-A", "E-B"], ["B-A", "B-B"], [0, 1]),  # not closed, and another opened by E
        ("BILOU", ["U-A", "L-A"], ["B-A", "B-A"], [1]),
        ("BMES", ["S-A", "B-A", "M-A", "E-A", "S-B"], ["B-A", "B-A", "I-A", "I-A", "B-B"], []),
        ("IOB1", ["O", "B-A", "I-A"], ["O", "B-A", "I-A"], [1]),
        ("IOB1", ["I-A", "I-B", "B-B"], ["B-A", "B-B", "B-B"], []),
        ("IOB2", ["B-A", "I-B", "I-B"], ["B-A", "B-B", "I-B"], [1]),
    ],
)
def test_broken_tags_are_mended_by_the_stated_rule(
    scheme: str, tags: list[str], fixed: list[str], broken: list[int]
) -> None:
    result, found = to_iob2(tags, scheme)
    assert result == fixed
    assert [index for index, _ in found] == broken
    assert all("read as" in message for _, message in found)


def test_a_few_broken_tags_do_not_change_the_scheme() -> None:
    good = ["B-A", "I-A", "O", "B-B"]
    assert detect_scheme([good] * 20 + [["O", "I-A"]]).name == "IOB2"
    assert detect_scheme([["I-A", "I-A", "B-A", "O", "I-B"]] * 20 + [["O", "B-A"]]).name == "IOB1"


def test_tags_outside_the_scheme_are_refused() -> None:
    with pytest.raises(LabelError, match="the tag 'E-PER' is none of the scheme IOB2 .O, B-TYPE, I-TYPE."):
        split_tag("E-PER", "IOB2")
    with pytest.raises(LabelError, match="'PER'"):
        to_iob2(["PER"], "BIOES")
    with pytest.raises(ValueError, match="scheme='BIO' is unknown; it is one of IOB1, IOB2"):
        check_scheme("BIO")


def test_names_have_the_natural_order() -> None:
    assert iob2_names(["T10", "T2"]) == ["O", "B-T2", "I-T2", "B-T10", "I-T10"]
    assert split_tag("B_NAME-x", "IOB2") == ("B", "NAME-x")


# How the words "Mira Okafor met Bo" may be tagged, with what is outside, and the types that are read.
SPELLED = {
    "roles alone": ("B I O B", "_"),
    "roles alone, small": ("b i o b", "_"),
    "BIES alone": ("B E O S", "_"),
    "BILOU alone": ("B L O U", "_"),
    "small roles": ("b-PER i-PER o b-PER", "PER"),
    "small": ("b-per i-per o b-per", "per"),
    "type first": ("PER-B PER-I O PER-B", "PER"),
    "type first, closed": ("PER_B PER_E O PER_S", "PER"),
    "colons": ("B:PER I:PER O B:PER", "PER"),
    "colons, type first": ("PER:B PER:I O PER:B", "PER"),
    "BMEWO": ("B-PER E-PER O W-PER", "PER"),
    "0 outside": ("B-PER I-PER 0 B-PER", "PER"),
    "OTHER outside": ("PER PER OTHER PER", "PER"),
    "_ outside": ("PER PER _ PER", "PER"),
    "- outside": ("B I - B", "_"),
}


@pytest.mark.parametrize("case", SPELLED)
def test_each_form_is_read_as_role_and_type(case: str) -> None:
    written, kind = SPELLED[case]
    form = detect_form({*written.split()}, None)
    tags = [form.read(tag) for tag in written.split()]
    assert to_iob2(tags, detect_scheme([tags]).name) == ([f"B-{kind}", f"I-{kind}", "O", f"B-{kind}"], [])
    assert bool(form.notes(written.split())) == (tags != written.split())


@pytest.mark.parametrize(
    "written",
    [
        "O PER-B PER-I MISC",  # some tags have roles, others none
        "O B I PER",
        "O b-PER i-PER LOC",
        "* (PER* *) (LOC*)",  # brackets of CoNLL-2012
        "_ name=B-PER name=I-PER SpaceAfter=No|name=B-LOC",  # MISC of CoNLL-U
    ],
)
def test_forms_that_would_become_types_are_refused(written: str) -> None:
    with pytest.raises(ValueError, match="Write them as ROLE-TYPE"):
        detect_form({*written.split()}, None)
    assert detect_form({*written.split()}, "IO").read("PER-B") == "PER-B"


def test_types_are_no_roles() -> None:
    tags = {"O", "e-mail", "s-bahn", "vitamin-C", "PER", "OTHER", "L", "M"}
    assert [detect_form(tags, None).read(tag) for tag in tags] == [*tags]
    assert "no word is outside" in detect_scheme([["NOUN", "VERB"]]).reason
