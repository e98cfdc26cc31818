"""Every fault, in one place; a new one is a class in a file of its kind, and a line here."""

from disk_faults import (
    CompactionRefused,
    DelayedVisibility,
    DiskFull,
    KilledInCompaction,
    MountDies,
    PowerCut,
    PowerCutInCompaction,
    ReadOnly,
    StorageRefuses,
    TruncatesSegment,
)
from fault_base import Fault
from node_faults import (
    DriverKilled,
    HeadKilled,
    Neighbours,
    NodeManagerKilled,
    OnlyNodeKilled,
    PrivateDriverKilled,
    RandomMoment,
    TwoDrivers,
)
from store_faults import StoreIsFlaky, StoreIsSlow, UploadBroken, WorkerKilledInUpload
from worker_faults import (
    MonitorKills,
    WorkerKilled,
    WorkerOutOfMemory,
    WorkerStopped,
    WorkerTruncates,
)

FAULTS: tuple[type[Fault], ...] = (
    WorkerKilled,
    WorkerTruncates,
    WorkerOutOfMemory,
    MonitorKills,
    WorkerStopped,
    NodeManagerKilled,
    OnlyNodeKilled,
    DriverKilled,
    PrivateDriverKilled,
    HeadKilled,
    StorageRefuses,
    MountDies,
    DiskFull,
    ReadOnly,
    PowerCut,
    KilledInCompaction,
    TruncatesSegment,
    CompactionRefused,
    PowerCutInCompaction,
    TwoDrivers,
    DelayedVisibility,
    Neighbours,
    RandomMoment,
    StoreIsFlaky,
    StoreIsSlow,
    UploadBroken,
    WorkerKilledInUpload,
)
