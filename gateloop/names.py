"""The words a config may use: one Enum for each key with a fixed set of choices."""

from enum import Enum


class ModeName(Enum):
    """How the recurrence is computed; ``auto`` takes the fastest for model and shape."""

    auto = "auto"
    recurrent = "recurrent"
    scan = "scan"
    chunkwise = "chunkwise"
    attention = "attention"
    convolution = "convolution"


class AmplitudeControl(Enum):
    data = "data"
    fixed = "fixed"
    one = "one"


class PhaseControl(Enum):
    data = "data"
    fixed = "fixed"
    none = "none"


class AmplitudeActivation(Enum):
    """``unconstrained`` is for experiments: with it nothing keeps the state from growing."""

    sigmoid = "sigmoid"
    exp_exp = "exp_exp"
    exp_softplus = "exp_softplus"
    unconstrained = "unconstrained"


class PhaseActivation(Enum):
    identity = "identity"
    tanh = "tanh"
    relu = "relu"


class Domain(Enum):
    complex = "complex"
    real = "real"
    signed = "signed"


class Parametrisation(Enum):
    polar = "polar"
    cartesian = "cartesian"


class OutputNorm(Enum):
    layer = "layer"
    rms = "rms"
    group = "group"
    none = "none"
    group_over_time = "group_over_time"


class NormPlacement(Enum):
    pre = "pre"
    post = "post"


class ChannelMixingName(Enum):
    gelu = "gelu"
    swiglu = "swiglu"
    geglu = "geglu"


class NormName(Enum):
    layer = "layer"
    rms = "rms"


class Position(Enum):
    """What tells a Transformer where a token stands."""

    rope = "rope"
    none = "none"
    learned = "learned"
    data_controlled = "data_controlled"


class Spectrum(Enum):
    """Where the eigenvalues of S4D's state matrix start."""

    lin = "lin"
    inv = "inv"
    legs = "legs"
    real = "real"


class Discretisation(Enum):
    zoh = "zoh"
    bilinear = "bilinear"


class S5Output(Enum):
    """How S5's output matrix starts."""

    trunc_standard_normal = "trunc_standard_normal"
    lecun_normal = "lecun_normal"
    complex_normal = "complex_normal"


class Task(Enum):
    modsum = "modsum"
    clipsum = "clipsum"
    hold = "hold"
    modsum_noreset = "modsum_noreset"


class TokenizerName(Enum):
    gpt2 = "gpt2"
    sentencepiece = "sentencepiece"
    word = "word"
    byte = "byte"


class LineEnd(Enum):
    newline = "newline"
    end_of_text = "end_of_text"


class Protocol(Enum):
    independent = "independent"
    carry = "carry"
    sliding = "sliding"


class Precision(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float64 = "float64"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Strategy(Enum):
    """How several devices share a run; ``auto`` is ddp as soon as there is more than one."""

    auto = "auto"
    ddp = "ddp"
    fsdp = "fsdp"


class Schedule(Enum):
    cosine = "cosine"
    constant = "constant"


class TrackerName(Enum):
    auto = "auto"
    wandb = "wandb"
    csv = "csv"
    tensorboard = "tensorboard"
    none = "none"
