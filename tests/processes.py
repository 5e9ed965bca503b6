"""What several processes do together, for ``test_shards``: ``torchrun`` starts this file in each of them."""

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

import kernelscope as ks
from kernelscope.data.points import as_points
from kernelscope.errors import DataError, ProcessLost
from kernelscope.kernels import Laplacian
from kernelscope.machine.watching import Telling
from kernelscope.solvers import ConjugateGradient, Direct, EigenPro, Newton, Problem, Watch
from kernelscope.solvers.shards import Ranks, shared

SOLVERS = {"full": ConjugateGradient("full"), "two-level": ConjugateGradient("two-level", rank=10),
           "direct": Direct(), "eigenpro": EigenPro(epochs=2), "newton": Newton("huber", tolerance=1e-12)}


def problem(memory=10**6, n=300, p=47, **more):
    """One that leaves no processes with as many centers, and needs several blocks."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    y = torch.stack([x[:, 0].sin() + x[:, 1], x.norm(dim=1)], 1)
    points = as_points(x)
    settings = {"ridge": (1e-3, 1e-1)} | more
    return Problem(Laplacian(2.0), points, y, as_points(x[:p].clone()), memory=memory, **settings)


def problems():
    weights = torch.rand(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"plain": problem(), "weights and an intercept": problem(weights=weights / weights.mean(), intercept=True),
            "many blocks": problem(memory=60_000, ridge=(1e-2,))}


def solutions(make):
    """What each solver finds for each problem: coefficients, intercepts and objectives."""
    found = {}
    for kind, posed in problems().items():
        for name, solver in SOLVERS.items():
            if kind == "many blocks" and name != "two-level":
                continue
            solution = solver.solve(make(posed))
            found[f"{name}: {kind}"] = {"coefficients": solution.coefficients, "intercepts": solution.intercepts,
                                        "objective": torch.tensor(solution.objective, dtype=torch.float64)}
    return found


class Counting(Watch):
    """Counts how often processes speak to each other in each pass."""

    def __init__(self):
        self.calls, self.before, self.counts, each = 0, 0, [], Ranks.each

        def counted(ranks, values):
            self.calls += 1
            return each(ranks, values)

        Ranks.each = counted

    def heard(self, state):
        self.counts.append(self.calls - self.before)
        self.before = self.calls
        return False


def counted():
    watch = Counting()
    posed = shared(problem(ridge=(1e-3,)))
    ConjugateGradient("full").solve(posed, watch)
    return watch.counts, sum(1 for _ in posed.own_rows())


def fitted(interrupted_at=None, **more):
    """A machine that all processes fit, or what is left of one after Ctrl-C in some pass."""
    posed, heard = problem(), Telling.heard

    def pressed(watch, state):
        said = heard(watch, state)
        if interrupted_at is not None and state.passes >= interrupted_at:
            raise KeyboardInterrupt
        return said

    x, z = (points.part(0, len(points)).args[0] for points in (posed.x, posed.z))
    settings = {"centers": z, "ridge": 1e-6, "solver": ConjugateGradient("two-level", rank=3), "memory": "100MB"} | more
    Telling.heard = pressed
    try:
        return ks.fit(posed.kernel, x, posed.y, **settings).coefficients
    except KeyboardInterrupt:
        return None
    finally:
        Telling.heard = heard


def fits(folder):
    """Machines from one call and from one that was interrupted, and what a call with other numbers says."""
    at_once = fitted(distributed=True)
    assert fitted(3, distributed=True, checkpoint=folder) is None
    gone_on = fitted(distributed=True, checkpoint=folder)
    again = fitted(distributed=True, checkpoint=folder)
    try:
        fitted(distributed=True, checkpoint=folder, ridge=1e-5)
    except DataError as error:
        said = str(error)
    return {"at once": at_once, "gone on": gone_on, "again": again}, said


def differing():
    """What is said where the processes have different problems."""
    try:
        shared(problem(ridge=(1e-3 * (1 + dist.get_rank()),)))
    except DataError as error:
        return str(error)
    return "nothing"


def too_many():
    try:
        shared(problem(p=1))
    except DataError as error:
        return str(error)
    return "nothing"


def together(out):
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    found = solutions(shared)
    # No generator: all processes have to come to every broadcast.
    alike = all([torch.equal(value, of_the_last(value)) for one in found.values() for value in one.values()])
    machines, refused = fits(f"{out}.checkpoint")
    said, (counts, blocks) = (differing(), too_many(), refused), counted()
    if dist.get_rank() == 0:
        torch.save({"found": found, "alike": alike, "machines": machines, "said": said, "counts": counts,
                    "blocks": blocks, "size": dist.get_world_size()}, out)
    dist.destroy_process_group()


def of_the_last(value):
    """The value that the last process has."""
    other = value.clone().contiguous()
    dist.broadcast(other, dist.get_world_size() - 1)
    return other


class Dying(Watch):
    """Ends this process after its second pass."""

    def heard(self, state):
        if dist.get_rank() == 1 and state.passes >= 3:
            os._exit(7)
        return False


def one_ends(store):
    """What the others say when one ends without a word."""
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2,
                            timeout=timedelta(seconds=60))
    posed = shared(problem(ridge=(0.0,)))
    try:
        ConjugateGradient("two-level", rank=5, tolerance=1e-15).solve(posed, Dying())
    except ProcessLost as error:
        sys.stdout.write(str(error))
        sys.stdout.flush()
        os._exit(3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"together": together, "one_ends": one_ends}[sys.argv[1]](sys.argv[2])
