"""The eviction policy: sampling, what must stay, what is not worth anybody's leaving, and bounded
memory."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tierfs.cache.eviction import Victim
from tierfs.index.records import EXTENT_SIZE, CachedFile, Extent
from tierfs.readahead import jobs
from tierfs.readahead.epochs import Class
from tierfs.readahead.policy import BATCH_SHARE, AdaptivePolicy, Incoming
from tierfs.readahead.rules import LEARNT, Rule

FIRST = 16


def extents(*numbers: int) -> tuple[Extent, ...]:
    return tuple((n * EXTENT_SIZE, (n + 1) * EXTENT_SIZE) for n in numbers)


def part(last_used_s: int, *numbers: int) -> tuple[CachedFile, tuple[Extent, ...]]:
    """An incomplete file of a hundred extents that has these, and they."""
    held = file(last_used_s, 100 * EXTENT_SIZE)._replace(
        present_bytes=len(numbers) * EXTENT_SIZE, complete=False
    )
    return held, extents(*numbers)


def file(last_used_s: int, bytes_: int = 100) -> CachedFile:
    return CachedFile(b"", bytes_, bytes_, True, True, bytes(8), bytes_, 0, last_used_s)


class Files:
    """A source of samples."""

    def __init__(
        self,
        files: dict[int, CachedFile],
        parts: dict[int, tuple[CachedFile, tuple[Extent, ...]]] | None = None,
    ) -> None:
        self.parts = parts or {}
        self.files = files | {ino: held for ino, (held, _) in self.parts.items()}
        self.samples = 0

    def file(self, ino: int) -> CachedFile | None:
        return self.files.get(ino)

    def first_extents(self, ino: int, bytes_: int, most: int) -> list[Extent]:
        return list(self.parts[ino][1][: min(most, -(-bytes_ // EXTENT_SIZE))])

    def sample_files(self, rng: random.Random, n: int) -> list[tuple[int, CachedFile]]:
        self.samples += 1
        inos = rng.sample(sorted(self.files), min(n, len(self.files)))
        return [(ino, self.files[ino]) for ino in inos]

    def totals(self) -> tuple[int, int]:
        return len(self.files), sum(file.present_bytes for file in self.files.values())


def policy(source: Files, *rules: Rule) -> AdaptivePolicy:
    return AdaptivePolicy(source, rules=rules or tuple(Rule), rng=random.Random(7))


def lru(source: Files) -> AdaptivePolicy:
    return policy(source, Rule.LRU)


def nobody(_: int) -> bool:
    return False


def shuffled(inos: Sequence[int], seed: int) -> list[int]:
    return random.Random(seed).sample(inos, len(inos))


# ---- sampling, and what must stay ---------------------------------------------------------------


def test_victims_are_old_ones() -> None:
    chosen = lru(Files({n: file(n) for n in range(1000)})).choose_victims(5000, 64, nobody)
    assert chosen is not None
    assert len(chosen) == len(set(chosen)) == 50
    assert all(victim.ino < 500 and victim.extents is None for victim in chosen)


@pytest.mark.parametrize("rule", LEARNT)
def test_what_is_in_use_stays(rule: Rule) -> None:
    files = Files({n: file(n) for n in range(20)})
    chosen = policy(files, rule).choose_victims(10**9, 64, lambda n: n < 15)
    assert chosen is not None
    assert sorted(chosen) == [Victim(n) for n in range(15, 20)]


def test_nothing_to_choose_is_found_out_soon() -> None:
    files = Files({n: file(n) for n in range(100)})
    for incoming in (None, Incoming(1000)):
        files.samples = 0
        assert policy(files).choose_victims(1, 64, lambda _: True, incoming) == []
        assert files.samples < 20
        assert policy(Files({})).choose_victims(1, 64, nobody, incoming) == []


def test_a_few_more_go_in_one_go_than_a_small_file_needs() -> None:
    files = Files({n: file(n) for n in range(1024)})
    chosen = lru(files).choose_victims(1, 64, nobody)
    assert chosen is not None
    assert len(chosen) == 1024 // BATCH_SHARE


def test_where_several_jobs_read_no_more_goes_than_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "BUSY_READS", 8)
    inos = range(FIRST, FIRST + 1024)
    several = policy(Files({n: file(n) for n in inos}), Rule.EPOCHS)
    for seed in range(3):
        for one, other in zip(shuffled(inos, seed), shuffled(inos, seed + 9), strict=True):
            several.accessed(one, 1)
            several.accessed(other, 2)
    assert several.jobs.several
    chosen = several.choose_victims(1, 64, nobody)
    assert chosen is not None
    assert len(chosen) == 1


def test_no_more_than_asked_for_in_one_go() -> None:
    chosen = lru(Files({n: file(n) for n in range(100)})).choose_victims(10**9, 8, nobody)
    assert chosen is not None
    assert len(chosen) == 8


def test_an_incomplete_file_leaves_only_what_is_needed_from_its_beginning() -> None:
    oldest = lru(Files({17: file(5)}, {16: part(1, 3, 4, 9)}))
    assert oldest.choose_victims(1, 64, nobody) == [Victim(16, extents(3))]
    assert oldest.choose_victims(EXTENT_SIZE + 1, 64, nobody) == [Victim(16, extents(3, 4))]


def test_an_incomplete_file_that_is_not_enough_goes_whole() -> None:
    oldest = lru(Files({17: file(5)}, {16: part(1, 3, 4, 9)}))
    assert oldest.choose_victims(3 * EXTENT_SIZE + 1, 64, nobody) == [Victim(16), Victim(17)]


def test_extents_count_among_what_is_chosen_in_one_go() -> None:
    oldest = lru(Files({17: file(0), 18: file(1)}, {16: part(2, *range(90))}))
    chosen = oldest.choose_victims(80 * EXTENT_SIZE, 8, nobody)
    assert chosen == [Victim(17), Victim(18), Victim(16, extents(*range(6)))]


def test_what_was_read_since_the_start_outlives_what_the_index_says() -> None:
    oldest = lru(Files({n: file(n) for n in range(16)}))
    oldest.accessed(0)
    assert oldest.choose_victims(1, 64, nobody) == [Victim(1)]


def test_what_was_read_before_goes_first() -> None:
    oldest = lru(Files({16: file(9), 17: file(3)}))
    oldest.accessed(16)
    oldest.accessed(17)
    assert oldest.choose_victims(1, 64, nobody) == [Victim(16)]


def test_the_lru_rule_declines_nothing() -> None:
    oldest = lru(Files({n: file(n) for n in range(FIRST, 32)}))
    for ino in range(FIRST, 32):
        oldest.accessed(ino)
    assert oldest.choose_victims(100, 64, nobody, Incoming(100)) == [Victim(FIRST)]
    assert oldest.choose_victims(100, 64, nobody, Incoming(100, ahead=True)) == [Victim(FIRST)]


# ---- what is not worth it -----------------------------------------------------------------------


def trained(data: Sequence[int], cached: Sequence[int]) -> tuple[AdaptivePolicy, Files]:
    """A policy by the rule of epochs that has seen three of *data*, and what is cached of it."""
    files = Files({ino: file(0) for ino in cached})
    epochs = policy(files, Rule.EPOCHS)
    for seed in range(3):
        for ino in shuffled(data, seed):
            epochs.accessed(ino)
    return epochs, files


def test_in_a_shuffled_epoch_what_was_just_read_is_declined() -> None:
    data = range(FIRST, FIRST + 400)
    epochs, files = trained(data, data[:200])
    hits = declined = 0
    for ino in shuffled(data, 3):
        epochs.accessed(ino)
        if ino in files.files:
            hits += 1
            continue
        # Whoever has ordered it gets room, whatever it costs.
        assert epochs.choose_victims(100, 64, nobody, None)
        chosen = epochs.choose_victims(100, 64, nobody, Incoming(ino))
        if chosen is None:
            declined += 1
            continue
        for victim in chosen:
            del files.files[victim.ino]
        files.files[ino] = file(0)
    assert hits > 190
    # The few that come in its place were read before it was clear that an epoch had begun.
    assert declined > 170


def test_what_this_epoch_has_not_read_yet_takes_the_place_of_what_it_has() -> None:
    data = range(FIRST, FIRST + 400)
    epochs, files = trained(data, data[:200])
    order = shuffled(data, 3)
    for ino in order[:200]:
        epochs.accessed(ino)
    now = epochs.jobs.all[0]
    replaced = 0
    for ino in order[200:]:
        if ino not in files.files and now.class_of(ino) is Class.DUE:
            chosen = epochs.choose_victims(100, 64, nobody, Incoming(ino, ahead=True))
            for victim in chosen or ():
                assert now.class_of(victim.ino) is not Class.DUE
                del files.files[victim.ino]
                files.files[ino] = file(0)
                replaced += 1
    assert replaced > 60


def test_room_for_a_part_is_made_before_the_rest_is_declined() -> None:
    frequent = policy(Files({16: file(0), 17: file(0)}), Rule.FREQUENCY)
    for ino in (17, 17, 17, 18, 18):
        frequent.accessed(ino)
    assert frequent.choose_victims(200, 64, nobody, Incoming(18)) == [Victim(16)]
    assert frequent.choose_victims(200, 64, lambda n: n == 16, Incoming(18)) is None
    assert frequent.choose_victims(200, 64, nobody, Incoming(19)) is None


def test_one_rule_alone_is_in_charge_whatever_is_read() -> None:
    for rule in LEARNT:
        alone = policy(Files({n: file(n) for n in range(16, 48)}), rule)
        for n in range(20_000):
            alone.accessed(16 + n % 3)
        assert alone.rule is rule


def test_what_is_read_makes_no_difference_to_memory_but_by_its_number() -> None:
    adaptive = policy(Files({n: file(n) for n in range(16, 4016)}))
    for seed in range(5):
        for ino in shuffled(range(16, 8016), seed):
            adaptive.accessed(ino)
    held = sum(len(ghost.held) for ghost in adaptive._ghosts._ghosts.values())
    assert held <= len(LEARNT) * 4000 // 32
    assert len(adaptive.jobs.all[0]._pages) == 2


# ---- what a warm-up asked for --------------------------------------------------------------------


def test_a_warm_up_undoes_nothing_that_warm_ups_did() -> None:
    source = Files({ino: file(0) for ino in range(FIRST, FIRST + 20)})
    chosen = policy(source)
    for ino in range(FIRST, FIRST + 15):
        chosen.ahead.warm_up(ino, 100)
    chosen.accessed(FIRST)  # It was read, so it did what it was for.
    incoming = Incoming(99, warm_up=True)
    victims = chosen.choose_victims(600, 512, nobody, incoming)
    assert victims is not None
    assert {ino for ino, _ in victims} == {FIRST, *range(FIRST + 15, FIRST + 20)}
    for ino in (FIRST, *range(FIRST + 15, FIRST + 20)):
        del source.files[ino]
    assert chosen.choose_victims(100, 512, nobody, incoming) is None
    # Where it has to go it goes.
    assert chosen.choose_victims(100, 512, nobody) not in (None, [])


def test_what_a_warm_up_asked_for_is_worth_a_read() -> None:
    """After an epoch nobody knows of a file that was never read that it ever will be."""
    known = range(FIRST, FIRST + 200)
    warm = range(FIRST + 200, FIRST + 400)
    now = shuffled(known, 3)[:100]
    cached = {*known, *warm} - {now[0]}
    chosen = policy(Files({ino: file(0) for ino in cached}), Rule.EPOCHS)
    for epoch in range(3):
        for ino in shuffled(known, epoch):
            chosen.accessed(ino)
    for ino in now:
        chosen.accessed(ino)

    def left() -> set[int]:
        victims = chosen.choose_victims(5000, 512, nobody, Incoming(now[0])) or []
        return {ino for ino, _ in victims}

    assert left() & set(warm)
    for ino in warm:
        chosen.ahead.warm_up(ino, 100)
    assert not left() & set(warm)
