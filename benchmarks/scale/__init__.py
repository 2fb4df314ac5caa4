"""What a large cluster costs the driver, simulated in one process without Ray.

Real: the control loop, the choice of workers, the budget of samples, supervision, the broadcast, the queue's client,
and the replay queue with its journal. Simulated: samplers, verifiers, learner ranks and node monitors; they answer
after a latency and compute nothing. Not included: what Ray itself costs the driver for every call (`calls` says how
many there are; `python -m benchmarks.driver` includes it), the network, the data of groups and weights, records on
disk, evaluations and checkpoints.

CPU is the processor time of the process, so other work on the machine changes it little. Two samplers are killed: one
while groups are in flight, one after the last step.

    start         seconds until all actors serve, and CPU seconds; the actors are ready at once
    driver        CPU per group, with fakes and heartbeats, without the work of the queue's own process
    in flight     groups in flight at once, from the request to the commit
    calls         remote calls of the driver per group
    queue         operations (reserve, lease, ack, and each committed group) per second of the queue's own CPU
    death         seconds until the supervisor reports a sampler that died
    supervision   CPU seconds per second while nothing is in flight, and per actor
    bytes         of one group of 16 samples x 512 tokens: sent by the driver, and kept in the object store
    step          seconds of a step with 1, 2, 3, ... samplers that each take 8 groups at a time
"""
