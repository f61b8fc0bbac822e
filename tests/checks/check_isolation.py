"""check-isolation: no data of one request reaches another (--count: prompts).

Every prompt holds a word of its own, a canary. All are answered by a server that fills pages with NaN when they become
free, in crowds, in a pool so small that pages go from hand to hand all the time, and by a server with room for all that
poisons nothing, one crowd later. Promised: each answer is the same from both, none is refused or fails, and none holds
the canary of another prompt.
"""
import os
import random
import re
import sys

sys.path.insert(0, os.path.join(sys.argv[1], "tests", "support"))
import asked
import check
import harness
import swarm

LETTERS = "bcdfghjklmnpqrstvwxz"


def canary(number):
    """A word that nothing else has: ten consonants."""
    draw = random.Random("canary %d" % number)
    return "".join(draw.choice(LETTERS) for _ in range(10))


def answers(port, requests, run, done):
    """Essences, by number; crowds of 32."""
    got, crowd = {}, swarm.Swarm(port)

    def over(call):
        assert call.status() == 200, call.data
        got[call.which] = asked.essence(call)

    crowd.on_end = over
    for which, (path, fields) in requests:
        crowd.send(path, fields).which = which
        crowd.run(600, until=lambda: crowd.open < 32)
        run.progress(done + len(got), run.count)
    crowd.run(600)
    crowd.close()
    return got


def main():
    run = check.Check("check-isolation", 10000, 200)
    draw = random.Random(run.seed)
    canaries = {canary(i): i for i in range(run.count)}
    assert len(canaries) == run.count
    word = re.compile("[%s]{10}" % LETTERS)
    foreign, differ, first, compared = 0, 0, None, 0
    small = ("--max-sequences", "32", "--max-queue", "64", "--kv-bytes", str(24 << 20), "--poison")
    with harness.Server(*asked.OPTIONS, *small) as poisoned, harness.Server(*asked.OPTIONS, "--max-sequences", "32", "--max-queue", "64") as plain:
        for begin in range(0, run.count, 500):
            some = [(i, asked.draw_request(draw, canary(i))) for i in range(begin, min(begin + 500, run.count))]
            one, other = (answers(server.port, some, run, begin) for server in (poisoned, plain))
            for which, request in some:
                compared += 1
                found = set(word.findall(one[which])) & set(canaries) - {canary(which)}
                foreign += bool(found)
                differ += one[which] != other[which]
                if (found or one[which] != other[which]) and not first:
                    first = "%s: %s, unpoisoned %s, canaries %s" % (request, one[which][:300], other[which][:300], found)
    run.verdict(not foreign and not differ and compared == run.count,
                "%d prompts, %d with foreign canaries, %d differing from unpoisoned" % (compared, foreign, differ), first)


main()
