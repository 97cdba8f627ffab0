"""The scenarios, in the order in which they are run. `base` is what each one is."""

from __future__ import annotations

from bench.scenarios.base import Scenario
from bench.scenarios.ckpt import Ckpt
from bench.scenarios.cold_seq import ColdSeq
from bench.scenarios.cold_small import ColdSmall
from bench.scenarios.epoch import Epoch, EpochRanks, EpochShards, EpochWarm, EpochWeighted
from bench.scenarios.epoch_cold import EpochCold
from bench.scenarios.epoch_jobs import EpochJobs
from bench.scenarios.epoch_paced import EpochHinted, EpochPaced
from bench.scenarios.list import List
from bench.scenarios.mapped import ColdMmap, WarmMmap
from bench.scenarios.mount import Mount
from bench.scenarios.train import Train
from bench.scenarios.warm_rand4k import WarmRand4k
from bench.scenarios.warm_seq import WarmSeq
from bench.scenarios.warm_small import WarmSmall

SCENARIOS: list[type[Scenario]] = [
    WarmSeq,
    WarmSmall,
    WarmRand4k,
    WarmMmap,
    ColdSeq,
    ColdSmall,
    ColdMmap,
    EpochCold,
    EpochWarm,
    Epoch,
    EpochRanks,
    EpochShards,
    EpochWeighted,
    EpochJobs,
    EpochPaced,
    EpochHinted,
    List,
    Ckpt,
    Mount,
    Train,
]
#: What ``--quick`` runs unless it is told otherwise.
QUICK = ["warm-seq", "warm-small", "cold-seq", "cold-small", "epoch", "list"]
