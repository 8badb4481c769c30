"""Run directories as a session writes them, measured on a device that is only a formula.

Speed follows from bytes and operations, every sample is drawn with noise, and all goes
through the real contracts. What a test wants to be special it says: noise, drift, names.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgekit.schema import codec
from edgekit.schema.bundle import (
    Architecture,
    AuditedOperator,
    Bundle,
    BundleFile,
    ExportCost,
    Gate,
    GateCheck,
    GateFigures,
    Golden,
    OnnxInterface,
    Recipe,
    Rope,
    Runtime,
    Source,
    Tokenizer,
)
from edgekit.schema.event import (
    AnyEvent,
    Bye,
    ConditionSamples,
    GoldenResult,
    Hello,
    Loaded,
    MemorySamples,
    MemoryUse,
    Sensor,
    SensorKind,
    Sensors,
    TrialResult,
    TrialStart,
)
from edgekit.schema.plan import OnnxArtefact, Plan, Trial
from edgekit.schema.run import Conditions, CpuCluster, DeviceFacts, GoldenVerdict, Launch, Run

GIB = 1024**3
#: name: (bits per weight, mean KL divergence, same top token, perplexity over the source's, operations a second
#: over those in fp32)
RECIPES = {
    "fp32": (32.0, 2e-7, 1.0, 1.0, 1.0),
    "w8": (8.5, 0.0011, 0.985, 1.003, 2.1),
    "w4": (4.9, 0.052, 0.901, 1.062, 1.9),
}
PARAMETERS = 134_515_008


def device(**changes: object) -> DeviceFacts:
    """A small board."""
    facts = DeviceFacts(
        name="adb:127.0.0.1:5555",
        transport="adb",
        abi="arm64-v8a",
        os="Debian GNU/Linux 13 (trixie)",
        kernel="6.12.30-rpi",
        cpus=4,
        clusters=[CpuCluster(cpus=[0, 1, 2, 3], name="Cortex-A76", max_khz=2_400_000)],
        cpu_model="Cortex-A76",
        memory_bytes=8 * GIB,
        free_bytes=40 * GIB,
    )
    return msgspec.structs.replace(facts, **changes)


def bundle(
    recipe: str = "w4", *, model: str = "smollm2-135m", runtime: str = "onnxruntime", **changes: object
) -> Bundle:
    """What an export of that recipe would leave; ``changes`` replace fields of the manifest."""
    bits, kl, top, perplexity, _ = RECIPES.get(recipe, RECIPES["w4"])
    weights = int(PARAMETERS * bits / 8)

    def digest(part: str) -> str:
        return hashlib.sha256(f"{model}/{runtime}/{recipe}/{part}".encode()).hexdigest()

    shape = [1, 3, 2048, 64]
    made = Bundle(
        schema_version=Bundle.SCHEMA_VERSION,
        model=model,
        source=Source(
            kind="gguf", name="smollm2-135m", sha256=digest("source"), license="apache-2.0", weights_were="Q4_1"
        ),
        architecture=Architecture(
            family="llama",
            layers=30,
            hidden=576,
            heads=9,
            kv_heads=3,
            head_dim=64,
            ffn=1536,
            vocab=49152,
            max_position=8192,
            parameters=PARAMETERS,
            tied_embedding=True,
            activation="silu",
            norm_eps=1e-5,
            rope=Rope(theta=100000.0, rotary_dim=64),
        ),
        recipe=Recipe(name=recipe, settings={"linear": {"bits": bits}}, bits_per_weight=bits),
        runtime=Runtime(
            name=runtime,
            backend="cpu",
            version="1.32.0",
            opsets={"": 21, "com.microsoft": 1},
            operators=[AuditedOperator(domain="com.microsoft", op_type="MatMulNBits", count=211)],
            context_length=2048,
            kv_cache_bytes=60 * 4 * 3 * 2048 * 64,
            onnx=OnnxInterface(
                tokens="input_ids",
                seqlens_k="seqlens_k",
                total_sequence_length="total_sequence_length",
                past=["past.0.key"],
                present=["present.0.key"],
                cache_shape=[shape],
                cache_dtype="float32",
                logits="logits",
                logits_dtype="float32",
            ),
        ),
        tokenizer=Tokenizer(bos_id=1, eos_ids=[2], pad_id=2, adds_bos=False, has_chat_template=True),
        files=[
            BundleFile(role="model", path="model.onnx", bytes=1_900_000, sha256=digest("model")),
            BundleFile(role="weights", path="model.onnx.data", bytes=weights, sha256=digest("weights")),
            BundleFile(role="tokenizer", path="tokenizer/tokenizer.json", bytes=2_100_000, sha256=digest("tokenizer")),
        ],
        gate=Gate(
            passed=True,
            allowed_unfaithful=False,
            reference="eager float32 of the dequantized source",
            text="gate-text-1",
            text_sha256=digest("text"),
            figures=GateFigures(
                tokens=2048,
                kl_mean=kl,
                kl_p99=kl * 9,
                kl_max=kl * 60,
                same_top=top,
                perplexity=18.4 * perplexity,
                perplexity_reference=18.4,
                greedy_prefix=round(64 * top),
                greedy_tokens=64,
            ),
            checks=[
                GateCheck(name="mean KL divergence", passed=True, found=f"{kl:.2g}", limit="0.1"),
                GateCheck(name="same top token", passed=True, found=f"{top:.1%}", limit="85%"),
            ],
        ),
        golden=Golden(prompt=[1, 2], tokens=[3], logit_ids=[3], logits=[[1.5]], tolerance=0.01, margins=[2.0]),
        exporter="transformers 5.23.0",
        cost=ExportCost(wall_s=31.0, peak_rss_bytes=2 * GIB, stages_s={"trace": 12.0, "quantize": 9.0}),
        versions={"edgekit": "0.1.0", "onnx": "1.23.2"},
        created_at="2026-01-05T10:00:00Z",
    )
    return msgspec.structs.replace(made, **changes)


@dataclass
class Session:
    """A session that writes its runs; every field can be set by a test."""

    root: Path
    bundles: list[Bundle] = field(default_factory=lambda: [bundle(name) for name in RECIPES])
    threads: tuple[int, ...] = (1, 2)
    prompts: tuple[int, ...] = (128,)
    generates: tuple[int, ...] = (64,)
    depths: tuple[int, ...] = (0,)
    rounds: int = 5
    device: DeviceFacts = field(default_factory=device)
    #: Relative standard deviation of a sample.
    noise: float = 0.01
    #: Speed over the nominal one, by place in the session from 0 to 1: heat, say.
    drift: Callable[[float], float] = lambda place: 1.0
    #: Speed over the nominal one, by recipe.
    factor: dict[str, float] = field(default_factory=dict)
    name: str = "2026-01-05T100000-abc123"
    began: str = "2026-01-05T10:00:00Z"
    seed: int = 1
    interleaved: bool = True
    golden_passed: bool = True
    command: tuple[str, ...] = ("edgekit", "run", "smollm2-135m", "--quant", "fp32,w8,w4", "-t", "1,2")
    memory_hz: float = 50.0
    #: Kernels of ours that every load reports.
    kernels: tuple[str, ...] = ()

    def write(self) -> list[Path]:
        """Write one run directory per bundle; returns them in the bundles' order."""
        draw = random.Random(self.seed)
        cells = [(index, max(self.threads), 0, True) for index in range(len(self.bundles))]
        for number in range(self.rounds):
            turn = [(index, count, number, False) for index in range(len(self.bundles)) for count in self.threads]
            draw.shuffle(turn)
            cells += turn
        if not self.interleaved:
            cells.sort(key=lambda cell: cell[0])
        launches: list[list[Launch]] = [[] for _ in self.bundles]
        for position, cell in enumerate(cells):
            index, threads, _, check = cell
            folder = f"launches/{len(launches[index]):03d}"
            plan = self._plan(*cell)
            events = self._events(plan, self.bundles[index], self.drift(position / max(1, len(cells) - 1)), draw)
            path = self._directory(index) / folder
            path.mkdir(parents=True)
            (path / "plan.json").write_bytes(codec.encode(plan))
            (path / "events.jsonl").write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
            verdict = GoldenVerdict(
                passed=self.golden_passed,
                tokens_equal=1 if self.golden_passed else 0,
                tokens=1,
                max_logit_difference=0.0004,
                tolerance=0.01,
            )
            launches[index].append(
                Launch(
                    index=len(launches[index]),
                    directory=folder,
                    threads=threads,
                    position=position,
                    started_at=f"2026-01-05T10:{position // 60:02d}:{position % 60:02d}Z",
                    status="done",
                    exit_code=0,
                    golden=verdict if check else None,
                )
            )
        return [self._write_run(index, launches[index]) for index in range(len(self.bundles))]

    def _directory(self, index: int) -> Path:
        return self.root / f"{self.name}-{index}"

    def _write_run(self, index: int, launches: list[Launch]) -> Path:
        made = self.bundles[index]
        directory = self._directory(index)
        before = Conditions(
            at="2026-01-05T09:59:59Z",
            load_1m=0.11,
            memory_available_bytes=6 * GIB,
            frequency_khz={"policy0": 2_400_000},
            governor={"policy0": "performance"},
            temperature_c={"cpu-thermal": 44.5},
        )
        run = Run(
            schema_version=Run.SCHEMA_VERSION,
            id=f"{self.name}-{made.recipe.name}-{index}",
            session=self.name,
            created_at=self.began,
            status="done",
            model=made.model,
            recipe=made.recipe.name,
            runtime=made.runtime.name,
            bundle=made.identity,
            device=self.device,
            before=before,
            after=msgspec.structs.replace(before, at="2026-01-05T10:04:00Z", temperature_c={"cpu-thermal": 61.0}),
            protocol={"name": "default", "repetitions": self.rounds, "seed": self.seed},
            launches=launches,
            versions={"edgekit": "0.1.0", "probe": "0.1.0"},
            command=list(self.command),
        )
        (directory / "bundle.json").write_bytes(codec.encode(made))
        (directory / "run.json").write_bytes(codec.encode(run))
        return directory

    def _plan(self, index: int, threads: int, number: int, check: bool) -> Plan:
        made = self.bundles[index]
        tests = [
            (kind, tokens, depth)
            for depth in self.depths
            for kind, lengths in (("prefill", self.prompts), ("decode", self.generates))
            for tokens in lengths
        ]
        trials = [Trial(id=0, kind="prefill", tokens=max(self.prompts), warmup=True)]
        trials += [
            Trial(id=place, kind=kind, tokens=tokens, depth=depth, repetition=number)
            for place, (kind, tokens, depth) in enumerate(tests, start=1)
        ]
        assert made.runtime.onnx is not None
        return Plan(
            schema_version=Plan.SCHEMA_VERSION,
            bundle=made.identity,
            artefact=OnnxArtefact(
                model_path="/data/local/tmp/edgekit/model.onnx",
                library_path="/data/local/tmp/edgekit/libonnxruntime.so",
                interface=made.runtime.onnx,
                context_length=2048,
                vocab=49152,
            ),
            threads=threads,
            affinity=None,
            loads=1,
            trials=[] if check else trials,
            golden=made.golden if check else None,
            seed=self.seed,
            memory_hz=self.memory_hz,
        )

    def speed(self, made: Bundle, trial: Trial, threads: int) -> float:
        """Nominal tokens per second, before drift and noise."""
        operations = RECIPES.get(made.recipe.name, RECIPES["w4"])[4]
        factor = self.factor.get(made.recipe.name, 1.0) * (1 - trial.depth / 20000)
        if trial.kind == "prefill":
            return 95.0 * operations * threads**0.93 * factor
        return 7.5e9 * threads**0.45 / made.size_bytes * factor

    def _events(self, plan: Plan, made: Bundle, place: float, draw: random.Random) -> list[AnyEvent]:
        clock = 5_000_000_000_000 + draw.randrange(10**9)
        weights = made.size_bytes
        anon = 30_000_000
        file = 22_000_000
        at: list[tuple[int, int, int]] = []

        def memory() -> MemoryUse:
            return MemoryUse(rss=anon + file, anon=anon, file=file, peak=max([anon + file, *(a + f for _, a, f in at)]))

        def sample(start: int, end: int, anon_to: int, file_to: int) -> None:
            nonlocal anon, file
            step = int(1e9 / self.memory_hz) if self.memory_hz else end - start + 1
            for moment in range(start, end, step):
                share = (moment - start) / (end - start)
                at.append((moment, int(anon + (anon_to - anon) * share), int(file + (file_to - file) * share)))
            anon, file = anon_to, file_to

        events: list[AnyEvent] = [
            Hello(
                t=clock,
                schema_version=1,
                probe_version="0.1.0",
                runtime=made.runtime.name,
                runtime_version="1.32.0",
                abi=self.device.abi,
                clock="CLOCK_MONOTONIC",
                clock_resolution_ns=1,
                unix_ns=1_767_607_200_000_000_000,
                pid=4242,
                cpus_online=self.device.cpus,
                page_size=4096,
            )
        ]
        start = clock + 2_000_000
        clock = start + int(weights / 0.9e9 * 1e9 * draw.uniform(0.9, 1.1)) + 20_000_000
        sample(start, clock, anon + int(weights * 0.25) + made.runtime.kv_cache_bytes // 4, file + int(weights * 0.75))
        events.append(
            Loaded(
                t=clock,
                load=0,
                resident_before=0.0 if plan.golden else 1.0,
                start_ns=start,
                end_ns=clock,
                threads=plan.threads,
                affinity_asked=None,
                affinity_read=[list(range(self.device.cpus))] * plan.threads,
                memory=memory(),
                kernels=list(self.kernels),
            )
        )
        if plan.golden:
            events.append(GoldenResult(t=clock + 1, tokens=plan.golden.tokens, logits=plan.golden.logits))
        for trial in plan.trials:
            events.append(TrialStart(t=clock + 1000, trial=trial.id))
            begin = clock + 5_000_000
            seconds = trial.tokens / (self.speed(made, trial, plan.threads) * place)
            seconds *= draw.lognormvariate(0, self.noise)
            if trial.kind == "prefill":
                end = begin + int(seconds * 1e9)
                token_ns = [end]
            else:
                weight = [(1 + (trial.depth + i) / 20000) * draw.lognormvariate(0, 0.02) for i in range(trial.tokens)]
                scale = seconds * 1e9 / sum(weight)
                token_ns, end = [], begin
                for share in weight:
                    end += max(1, int(share * scale))
                    token_ns.append(end)
            sample(begin, end, anon + trial.tokens * 70_000, file)
            events.append(
                TrialResult(t=end + 500, trial=trial.id, start_ns=begin, end_ns=end, token_ns=token_ns, cpus=[0])
            )
            clock = end + 1_000_000
            if at:
                moments, anons, files = zip(*at, strict=True)
                both = [a + f for a, f in zip(anons, files, strict=True)]
                events.append(MemorySamples(t=clock, at_ns=list(moments), rss=both, anon=list(anons), file=list(files)))
                at.clear()
        events.append(Bye(t=clock + 2_000_000, reason="done", trials_done=len(plan.trials), memory=memory()))
        return events


def tell_clock(run: Path, launch: int, values: list[int | None], *, kind: SensorKind = "frequency") -> None:
    """Make the launch report a clock, or its limit, kHz, sample by sample."""
    events = run / "launches" / f"{launch:03d}" / "events.jsonl"
    first, *rest = events.read_bytes().splitlines(keepends=True)
    at = msgspec.json.decode(first)["t"]
    sensor = Sensor(kind=kind, name="cpu0-3", unit="kHz", source="/sys/policy0", cpus=[0, 1, 2, 3])
    times = [at + index for index in range(len(values))]
    told = [
        Sensors(t=at, sensors=[sensor], unreadable=[]),
        ConditionSamples(t=times[-1], first=0, at_ns=times, took_ns=[0] * len(values), values=[values]),
    ]
    events.write_bytes(first + b"".join(msgspec.json.encode(event) + b"\n" for event in told) + b"".join(rest))
