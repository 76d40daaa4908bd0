"""What `import unified_jax as uj` gives; `__init__.py` reads this list and imports each name when it is first used."""

from unified_jax import (
    api as api,
    certify as certify,
    data as data,
    evaluation as evaluation,
    interop as interop,
    kernels as kernels,
    layers as layers,
    modalities as modalities,
    models as models,
    networks as networks,
    planning as planning,
    processes as processes,
    runs as runs,
    samplers as samplers,
    studies as studies,
    training as training,
)
from unified_jax.api.commands import (
    evaluate as evaluate,
    link as link,
    pipeline as pipeline,
    plan as plan,
    recipe as recipe,
    train as train,
)
from unified_jax.api.run import Run as Run, load as load
from unified_jax.api.samples import Samples as Samples, show as show
from unified_jax.data.cached import CachedFeatures as CachedFeatures
from unified_jax.data.files import Files as Files
from unified_jax.data.folder import Folder as Folder
from unified_jax.data.gaussians import Gaussians as Gaussians
from unified_jax.data.hub import Hub as Hub
from unified_jax.data.mixture import Mixture as Mixture
from unified_jax.data.packed_rows import PackedRows as PackedRows
from unified_jax.data.packing import Documents as Documents
from unified_jax.data.records import Records as Records
from unified_jax.data.table import Table as Table
from unified_jax.data.tars import Shards as Shards
from unified_jax.data.tfds import Tfds as Tfds
from unified_jax.data.world import World as World
from unified_jax.data.world.scene import ATTRIBUTES as ATTRIBUTES
from unified_jax.data.world.wording import Wording as Wording
from unified_jax.errors import RunError as RunError, UserError as UserError
from unified_jax.evaluation.extractors import (
    Extractor as Extractor,
    Inception as Inception,
    PooledPixels as PooledPixels,
)
from unified_jax.evaluation.modes import Modes as Modes
from unified_jax.evaluation.reconstruction import Reconstruction as Reconstruction
from unified_jax.evaluation.scores import (
    PixelFrechet as PixelFrechet,
    Score as Score,
    WorldAttributes as WorldAttributes,
    WorldCaptions as WorldCaptions,
)
from unified_jax.interop.preprocessing import Preprocessing as Preprocessing
from unified_jax.kernels.choice import attend as attend
from unified_jax.layers.form import (
    Backbone as Backbone,
    ConditionInput as ConditionInput,
    Form as Form,
    Layout as Layout,
    NoisyInput as NoisyInput,
)
from unified_jax.modalities.action import Action as Action
from unified_jax.modalities.audio import Audio as Audio
from unified_jax.modalities.base import Continuous as Continuous
from unified_jax.modalities.conditions import ConditionForm as ConditionForm
from unified_jax.modalities.crop import Crop as Crop
from unified_jax.modalities.depth import Depth as Depth
from unified_jax.modalities.image import Image as Image
from unified_jax.modalities.label import Label as Label
from unified_jax.modalities.mel import Mel as Mel
from unified_jax.modalities.numbers import Numbers as Numbers
from unified_jax.modalities.points import Points as Points
from unified_jax.modalities.reading import File as File
from unified_jax.modalities.text import Text as Text, learn_bpe as learn_bpe
from unified_jax.modalities.video import Video as Video
from unified_jax.models import autoencoders as autoencoders
from unified_jax.models.alignment import Alignment as Alignment
from unified_jax.models.autoencoders.model import Autoencoder as Autoencoder
from unified_jax.models.autoencoding import Autoencoding as Autoencoding
from unified_jax.models.base import Declared as Declared, Model as Model, Player as Player
from unified_jax.models.chain import Chain as Chain, Link as Link
from unified_jax.models.diffusion import Diffusion as Diffusion
from unified_jax.models.feature_latents import (
    FeatureAutoencoder as FeatureAutoencoder,
    FeatureCoding as FeatureCoding,
    FeatureDecoder as FeatureDecoder,
)
from unified_jax.models.feature_tokens import FeatureToken as FeatureToken, feature_token as feature_token
from unified_jax.models.gan import Cosine as Cosine, Gan as Gan
from unified_jax.models.gan_losses import (
    Hinge as Hinge,
    Relativistic as Relativistic,
    Separable as Separable,
)
from unified_jax.models.gibbs import GibbsChain as GibbsChain, blocked_gibbs as blocked_gibbs
from unified_jax.models.image_classifier import ImageClassifier as ImageClassifier
from unified_jax.models.image_encoder import ImageEncoder as ImageEncoder, image_encoder as image_encoder
from unified_jax.models.joint import JointDiffusion as JointDiffusion
from unified_jax.models.latents import Latents as Latents
from unified_jax.models.masked_diffusion import MaskedDiffusion as MaskedDiffusion
from unified_jax.models.masked_images import MaskedImages as MaskedImages
from unified_jax.models.sampling import sample_keys as sample_keys
from unified_jax.models.stages import Encoded as Encoded, Encoder as Encoder, Stage as Stage
from unified_jax.models.streams import Condition as Condition, Stream as Stream
from unified_jax.models.text_autoencoder import TextAutoencoder as TextAutoencoder, TextCoding as TextCoding
from unified_jax.models.text_classifier import TextClassifier as TextClassifier
from unified_jax.models.text_encoder import TextEncoder as TextEncoder, load_minilm as load_minilm, minilm as minilm
from unified_jax.models.transfusion import Transfusion as Transfusion
from unified_jax.models.tuned import Tuning as Tuning
from unified_jax.networks.bert import Bert as Bert
from unified_jax.networks.dit import DiT as DiT, dit_preset as dit_preset
from unified_jax.networks.gentron import GenTron as GenTron, gentron_preset as gentron_preset
from unified_jax.networks.lightningdit import lightningdit_preset as lightningdit_preset
from unified_jax.networks.mdit import MaskedDiT as MaskedDiT, masked_preset as masked_preset
from unified_jax.networks.mmdit import MMDiT as MMDiT
from unified_jax.networks.perceptrons import (
    PerceptronDiscriminator as PerceptronDiscriminator,
    PerceptronGenerator as PerceptronGenerator,
)
from unified_jax.networks.pixart import PixArt as PixArt
from unified_jax.networks.prefix_decoder import PrefixDecoder as PrefixDecoder
from unified_jax.networks.r3gan import R3ganDiscriminator as R3ganDiscriminator, R3ganGenerator as R3ganGenerator
from unified_jax.networks.refined import Refined as Refined
from unified_jax.networks.transfusion import Trunk as Trunk, trunk_preset as trunk_preset
from unified_jax.networks.unet.network import UNet as UNet
from unified_jax.networks.uvit import UVit as UVit
from unified_jax.networks.vit import Vit as Vit
from unified_jax.processes import paths as paths, schedules as schedules, times as times
from unified_jax.processes.edm import Edm as Edm
from unified_jax.processes.gaussian import DiscreteGaussian as DiscreteGaussian
from unified_jax.processes.interpolant import Interpolant as Interpolant, RectifiedFlow as RectifiedFlow
from unified_jax.processes.masking import Masking as Masking
from unified_jax.processes.targets import Prediction as Prediction, Process as Process
from unified_jax.runs.borrowed import borrow_autoencoder as borrow_autoencoder
from unified_jax.runs.planned import planned_stage as planned_stage
from unified_jax.runs.stages import stage as stage
from unified_jax.samplers.choice import (
    Ddim as Ddim,
    Ddpm as Ddpm,
    Dopri5 as Dopri5,
    DpmFast as DpmFast,
    DpmSolver as DpmSolver,
    Euler as Euler,
    EulerAncestral as EulerAncestral,
    Heun as Heun,
    Karras as Karras,
    Pndm as Pndm,
    Sampler as Sampler,
    Sde as Sde,
    UniPc as UniPc,
)
from unified_jax.samplers.guidance import Axis as Axis, Guidance as Guidance
from unified_jax.samplers.karras import Churn as Churn
from unified_jax.samplers.loop import slerp as slerp
from unified_jax.samplers.plan import SamplingPlan as SamplingPlan
from unified_jax.sharding import MeshShape as MeshShape, Rules as Rules
from unified_jax.studies.study import Budget as Budget, Metric as Metric, Study as Study, Variant as Variant
from unified_jax.training.algorithms import Adafactor as Adafactor, AdamW as AdamW, Lion as Lion, Muon as Muon
from unified_jax.training.balancing import (
    FixedBalance as FixedBalance,
    GradNorm as GradNorm,
    MagnitudeBalance as MagnitudeBalance,
    PcGrad as PcGrad,
    Uncertainty as Uncertainty,
)
from unified_jax.training.ema import Ema as Ema
from unified_jax.training.experiment import (
    Best as Best,
    Checkpointing as Checkpointing,
    Experiment as Experiment,
    Previews as Previews,
    Validation as Validation,
)
from unified_jax.training.optimizer import Group as Group, Optimization as Optimization

__version__: str
