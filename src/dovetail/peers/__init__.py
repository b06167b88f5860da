"""The fair race: other runtimes at their best, and our engine, each in a process of its own."""

from dovetail.peers.peer import PEERS, Peer, Source, Target, peer_named
from dovetail.peers.results import Race, Ratio, Row

__all__ = ["PEERS", "Peer", "Race", "Ratio", "Row", "Source", "Target", "peer_named"]
