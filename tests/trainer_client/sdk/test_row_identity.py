"""Which row is which: by everything that is scored, by nothing else, and told apart where two are equal."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_services import png

from sync_r1.trainer_client import Concept, Sample, VariantDescription, picture
from sync_r1.trainer_client.sdk.row_identity import RowKey, RowKeys, member_digests, sample_digest

GREY, WHITE = picture(png(100)), picture(png(255))
FULL = Sample(
    id="1", group="g", image=GREY, prompt="p", question="q", answer="a", reference_answers=("r",), choices=("c", "d"),
    target=1, nouns=("n",),
    concept=Concept("<bo>", "dog", (GREY,), "info", ("more",), "animal"),
)  # fmt: skip
CHANGES = {
    "image": WHITE, "prompt": "p2", "question": "q2", "answer": None, "reference_answers": ("r", "r"),
    "choices": ("d", "c"), "target": 0, "nouns": (), "name": "<bu>", "class_noun": "cat", "references": (GREY, GREY),
    "info": "", "extra_info": ("mo", "re"), "conversation_type": "person",
}  # fmt: skip


def variant(*required: str) -> VariantDescription:
    return VariantDescription("v", "s", "s", required, 0, 1, 1, 0, 64, False, "")


LOOKS = variant("image", "concept.references")


@pytest.mark.parametrize("part", [FULL, FULL.concept], ids=["sample", "concept"])
def test_every_scored_field_counts_and_no_label_does(part: Sample | Concept) -> None:
    for one in dataclasses.fields(part):
        if one.name == "concept":
            continue
        changed = dataclasses.replace(part, **{one.name: CHANGES.get(one.name, "another")})
        sample = changed if isinstance(changed, Sample) else dataclasses.replace(FULL, concept=changed)
        assert (sample_digest(sample, LOOKS) == sample_digest(FULL, LOOKS)) == (one.name in ("id", "group")), one.name


def test_an_empty_answer_is_another_input_than_none() -> None:
    assert sample_digest(Sample(answer=""), LOOKS) != sample_digest(Sample(), LOOKS)


def test_a_text_does_not_run_into_the_next_one() -> None:
    one, other = Sample(nouns=("a", "b")), Sample(nouns=("a, b",))
    assert sample_digest(one, LOOKS) != sample_digest(other, LOOKS)


def test_pictures_count_by_content_and_only_where_the_variant_looks() -> None:
    again = dataclasses.replace(FULL, image=picture(png(100)))
    assert sample_digest(again, LOOKS) == sample_digest(FULL, LOOKS)
    other = dataclasses.replace(FULL, image=WHITE)
    assert sample_digest(other, variant("answer")) == sample_digest(FULL, variant("answer"))
    flat, tall = (picture(np.zeros(shape, np.uint8)) for shape in ((2, 8, 3), (8, 2, 3)))
    assert sample_digest(Sample(image=flat), LOOKS) != sample_digest(Sample(image=tall), LOOKS)


def test_a_member_of_a_group_is_known_by_all_members() -> None:
    a, b, c = (bytes([number]) * 32 for number in range(3))
    assert member_digests([a, b])[0] == member_digests([a, b])[0]
    assert len({*member_digests([a, b]), *member_digests([a, c]), *member_digests([a]), *member_digests([b, a])}) == 7
    one, same = member_digests([a, a])
    assert one == same, "equal members are told apart by their number"


def test_variant_and_release_are_part_of_a_key() -> None:
    keys = {str(RowKeys(*who).key(b"row")) for who in (("v", "r"), ("v", "s"), ("w", "r"), ("vr", ""), ("", "vr"))}
    assert len(keys) == 5


@given(st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=12), st.randoms(use_true_random=False))
def test_rows_that_only_move_keep_their_keys_and_no_two_rows_have_one(rows: list[bytes], order: random.Random) -> None:
    keys = RowKeys("v", "r")
    before = [keys.key(row) for row in rows]
    assert len(set(before)) == len(rows)
    moved = rows.copy()
    order.shuffle(moved)
    again = RowKeys("v", "r")
    assert {again.key(row) for row in moved} == set(before)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**64 - 1))
def test_a_written_key_is_read_as_it_was(digest: bytes, occurrence: int) -> None:
    key = RowKey(digest, occurrence)
    assert RowKey.parse(str(key)) == key
    assert len(key.packed()) == 40


@given(st.text())
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        RowKey.parse(text)
