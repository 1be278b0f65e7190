"""Where the rows of an epoch of fit come from, and that none is lost or had twice."""

from __future__ import annotations

import itertools

import pytest
from helpers import arrive, write_feed
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tfos.feeding.arrival import Arrival
from tfos.feeding.dataset import FeedDataset
from tfos.feeding.epochs import CompleteEpoch, GrowingEpoch
from tfos.feeding.plan import Part, Position
from tfos.feeding.reader import FeedReader
from tfos.feeding.reads import serve_reads
from tfos.feeding.schema import Column
from tfos.lake.run_directory import RunDirectory

ROWS = 61
SHARDS = [0, 9, 20, 32]


@pytest.fixture(scope="module")
def feed(tmp_path_factory):
    """(lake, manifest) of a feed whose column "id" numbers the rows."""
    lake = RunDirectory(str(tmp_path_factory.mktemp("lake")), "run")
    return lake, write_feed(lake, "train", [Column("id", "int64")], {"id": range(ROWS)}, SHARDS)


@pytest.fixture
def make(feed, tmp_path):
    """The datasets of so many processes, as one process reads them; of what is there of the feed.

    All of it, unless somebody has made it grow.
    """
    reader = FeedReader(feed[0], str(tmp_path))
    serve_reads(reader)

    def datasets(replicas, batch, shuffle=True):
        arrival = Arrival(reader.arrived("train"), lambda: reader.arrived("train"))
        options = {"shuffle": shuffle, "replicas": replicas}
        return [FeedDataset(arrival, batch, replica=r, **options) for r in range(replicas)]

    yield datasets
    arrive(*feed, len(SHARDS))


class Seen(dict):
    """The rows that were trained on, by epoch of the feed."""

    def train(self, sources, position, most=1 << 30):
        """Makes at most so many steps of all processes in step; returns where the training is."""
        for stretches in zip(*(source.stretches() for source in sources), strict=True):
            for parts in zip(*(stretch.parts for stretch in stretches), strict=True):
                dataset, (part,) = stretches[0].dataset, set(parts)
                stop = min(part.start + most * dataset.step_rows, part.stop)
                unit = Part(part.epoch, part.start, stop)
                if not unit.rows:
                    return position
                for stretch in stretches:
                    for batch in stretch.dataset.positions(unit.start, unit.stop, unit.epoch):
                        self.setdefault(unit.epoch, []).extend(batch["id"].numpy().tolist())
                position = stretches[0].position_after(unit)
                most -= dataset.steps_in(unit.rows)
        return position


TURNS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(0, 4)), max_size=5)
SLOW = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class TestDividedAnew:
    """Others go on with other batches, several times in one epoch."""

    @pytest.mark.parametrize("shuffle", [True, False])
    @SLOW
    @given(TURNS)
    @example([(3, 4, 2), (2, 5, 1), (1, 3, 4)])
    def test_every_row_is_had_once(self, make, shuffle, turns):
        seen, position = Seen(), Position(1)
        for replicas, batch, steps in turns:
            if position.epoch == 1:
                sources = [CompleteEpoch(d, position) for d in make(replicas, batch, shuffle)]
                position = seen.train(sources, position, steps)
        if position.epoch == 1:
            sources = [CompleteEpoch(d, position) for d in make(2, 7, shuffle)]
            position = seen.train(sources, position)
        assert position == Position(2)
        assert {epoch: sorted(ids) for epoch, ids in seen.items()} == {1: list(range(ROWS))}

    @SLOW
    @given(TURNS)
    @example([(3, 4, 3), (2, 8, 4), (1, 9, 2)])
    def test_epochs_of_so_many_steps_go_on_through_the_feed(self, make, turns):
        seen, position = Seen(), Position()
        for replicas, batch, steps in turns:
            sources = [CompleteEpoch(d, position, 1 + steps) for d in make(replicas, batch)]
            assert sources[0].steps == 1 + steps
            position = seen.train(sources, position)
        # the rest of what was begun last
        sources = [CompleteEpoch(dataset, position) for dataset in make(3, 2)]
        assert seen.train(sources, position) == Position(position.epoch + 1)
        assert [sorted(ids) for ids in seen.values()] == [list(range(ROWS))] * len(seen)
        assert list(seen) == list(range(position.epoch + 1))

    def test_as_many_processes_go_on_in_the_same_sequence(self, make):
        """So nothing is traced anew for another size of batches alone."""
        datasets = make(3, 4)
        position = Seen().train([CompleteEpoch(d, Position()) for d in datasets], Position(), 2)
        assert position == Position(0, ((3, 24),))
        others = make(3, 5)
        (stretch,) = CompleteEpoch(others[1], position).stretches()
        assert stretch.dataset is others[1]
        assert stretch.parts == [Part(0, 24, ROWS)]


class TestGrowing:
    @pytest.fixture
    def grow(self, feed, monkeypatch):
        """Makes the feed one of which more comes each time that somebody waits."""
        monkeypatch.setattr("tfos.feeding.epochs.ARRIVAL_SECS", 0.0)

        def begin(*shards):
            more = itertools.chain(shards, itertools.repeat(len(SHARDS)))
            arrive(*feed, next(more))
            monkeypatch.setattr(
                "tfos.feeding.arrival.time.sleep", lambda secs: arrive(*feed, next(more))
            )

        return begin

    def test_hands_out_whole_steps_and_keeps_one_back(self, make, grow):
        grow(1, 1, 2)
        (dataset,) = make(1, 8)
        source = GrowingEpoch(dataset, Position())
        found = [(stretch.parts, stretch.due) for stretch in source.stretches()]
        assert found == [
            ([Part(0, 0, 24)], None),
            ([], None),
            ([], None),
            ([Part(0, 24, 48)], None),
            ([], None),
            ([Part(0, 48, ROWS)], ROWS),
        ]
        assert (source.rows, source.is_whole, source.steps) == (ROWS, True, None)

    @pytest.mark.parametrize("turns", [[(8, 2), (5, 1), (7, 3)], [(50, 1), (3, 99)]])
    @pytest.mark.parametrize("then", [(1, 1, 2), (3,), (4,)], ids=str)
    def test_is_divided_anew(self, make, grow, turns, then):
        seen, position = Seen(), Position()
        for batch, steps in turns:
            grow(*then)
            (dataset,) = make(1, batch)
            position = seen.train([GrowingEpoch(dataset, position)], position, steps)
        whole = [dataset.wait_complete() for dataset in make(2, 4)]
        if position.epoch == 0:
            position = seen.train([CompleteEpoch(d, position) for d in whole], position)
        assert position == Position(1)
        assert sorted(seen[0]) == list(range(ROWS))
