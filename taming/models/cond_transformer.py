"""The second stage: an autoregressive transformer over the codes of a first stage (Esser et al. 2021, section 3.2).

b batch, n known image tokens, l conditioning tokens, v vocabulary, (d, h, w) latent of the first stage.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.checkpoint import load_checkpoint, load_weights
from taming.config import instantiate_from_config
from taming.models import conditioning
from taming.models.batches import image_from_batch
from taming.models.cached_batches import cached_codes, cached_examples, check_caches, is_cached
from taming.models.conditioning import disabled_train
from taming.models.finite import check_finite
from taming.models.optimizers import can_fuse, with_schedule
from taming.modules.transformer.filters import (
    check_temperature,
    choose_token,
    guide,
    top_k_logits,
    top_k_top_p_filtering,
)
from taming.modules.transformer.permuter import Identity
from taming.modules.transformer.sharding import shard
from taming.modules.util import SOSProvider

__all__ = ["Net2NetTransformer", "disabled_train"]

FIRST_STAGE = "__is_first_stage__"
UNCONDITIONAL = "__is_unconditional__"
Generators = torch.Generator | Sequence[torch.Generator] | None


class Net2NetTransformer(pl.LightningModule):
    """Models p(image tokens | conditioning tokens) with a transformer; both stages that make the tokens are frozen.

    cond_stage_config may be "__is_first_stage__" (encode the conditioning with the first stage) or
    "__is_unconditional__" (a start token); conditioning and image tokens share one embedding table. The transformer is
    a GPT, or something with its forward, `block_size` and `config.vocab_size`.

    For classifier-free guidance (Ho & Salimans 2022) each sample's whole conditioning is replaced by `null_token` with
    probability `cond_drop_prob` in training; `sample` then takes a guidance_scale.
    """

    def __init__(
        self,
        transformer_config: Mapping,
        first_stage_config: Mapping,
        cond_stage_config: Mapping | str,
        permuter_config: Mapping | None = None,
        ckpt_path: str | None = None,
        ignore_keys: Sequence[str] = (),
        first_stage_key: str = "image",
        cond_stage_key: str = "depth",
        downsample_cond_size: int = -1,
        pkeep: float = 1.0,
        sos_token: int = 0,
        unconditional: bool = False,
        downsample_cond_factor: float | None = None,
        scheduler_config: Mapping | None = None,
        cond_drop_prob: float = 0.0,
        null_token: int | None = None,
    ) -> None:
        super().__init__()
        self.be_unconditional = unconditional
        self.sos_token = sos_token
        self.first_stage_key = first_stage_key
        self.cond_stage_key = cond_stage_key
        self.downsample_cond_size = downsample_cond_size
        self.downsample_cond_factor = downsample_cond_factor
        self.pkeep = pkeep
        self.scheduler_config = scheduler_config
        self.cond_drop_prob = cond_drop_prob
        self.null_token = null_token
        self.first_stage_model = _frozen(instantiate_from_config(first_stage_config))
        self._init_cond_stage(cond_stage_config)
        self.permuter = Identity() if permuter_config is None else instantiate_from_config(permuter_config)
        self.transformer = instantiate_from_config(transformer_config)
        conditioning.check_dropping(
            cond_drop_prob, null_token, self.cond_stage_model, self._vocab_size, unconditional=self.be_unconditional
        )
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys=ignore_keys)

    def _init_cond_stage(self, config: Mapping | str) -> None:
        if config == FIRST_STAGE:
            self.cond_stage_model = self.first_stage_model
        elif config == UNCONDITIONAL or self.be_unconditional:
            self.be_unconditional = True
            self.cond_stage_key = self.first_stage_key
            self.cond_stage_model = SOSProvider(self.sos_token)
        else:
            self.cond_stage_model = _frozen(instantiate_from_config(config))

    def init_from_ckpt(self, path: str, ignore_keys: Sequence[str] = ()):
        """Load a checkpoint's weights but for keys that begin with one of `ignore_keys`; reports what is missing."""
        return load_weights(self, load_checkpoint(path)["state_dict"], ignore_keys=ignore_keys, source=path)

    @property
    def _vocab_size(self) -> int:
        return self.transformer.config.vocab_size

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Images and conditioning -> logits (b, h*w, v) and their targets (b, h*w), both in the permuter's order."""
        _, target = self.encode_to_z(x)
        _, c_indices = self.encode_to_c(c)
        return self.predict(target, c_indices), target

    def predict(self, target: Tensor, c_indices: Tensor) -> Tensor:
        """Image tokens (b, h*w) in the permuter's order, given conditioning tokens (b, l) -> their logits (b, h*w, v).

        In training, a fraction 1 - pkeep of the image tokens that the transformer reads is replaced by random ones, and
        with probability cond_drop_prob all conditioning tokens of a sample by the null token. Raises ValueError for
        more tokens than block_size allows.
        """
        self._check_length(c_indices.shape[1], target.shape[1])
        z_indices = target
        if self.training and self.pkeep < 1.0:
            keep = torch.bernoulli(self.pkeep * torch.ones(target.shape, device=target.device)).to(torch.int64)
            noise = torch.randint_like(target, self._vocab_size)
            z_indices = keep * target + (1 - keep) * noise
        if self.training and self.cond_drop_prob > 0.0:
            dropped = torch.rand(len(c_indices), 1, device=c_indices.device) < self.cond_drop_prob
            c_indices = torch.where(dropped, self.null_condition(c_indices), c_indices)
        logits, _ = self.transformer(torch.cat((c_indices, z_indices), dim=1)[:, :-1])
        return logits[:, c_indices.shape[1] - 1 :]

    def _check_length(self, n_condition: int, n_image: int) -> None:
        """The last token is never read, so block_size + 1 fit."""
        block_size = self.transformer.block_size
        if n_condition + n_image > block_size + 1:
            raise ValueError(
                f"{n_condition} conditioning and {n_image} image tokens do not fit into block_size {block_size}: raise "
                "transformer_config.params.block_size, or use smaller images; sample larger images by windows"
            )

    def null_condition(self, c_indices: Tensor) -> Tensor:
        """What stands for no conditioning in the place of c_indices (b, l). Raises ValueError without a null_token."""
        if self.null_token is None:
            raise ValueError(
                "this model has no null_token, so it cannot be guided: train it with cond_drop_prob and null_token"
            )
        return torch.full_like(c_indices, self.null_token)

    @torch.no_grad()
    def encode_to_z(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images -> quantized latents (b, d, h, w) and token indices int64 (b, h*w) in the permuter's order.

        Raises ValueError if the codebook has more codes than the transformer's vocabulary.
        """
        conditioning.check_codebook(self.first_stage_model, self._vocab_size, "first_stage_config")
        quant_z, _, info = self.first_stage_model.encode(conditioning.for_encoder(x, self.first_stage_model))
        return quant_z, self.permuter(info[2].view(quant_z.shape[0], -1))

    @torch.no_grad()
    def encode_to_c(self, c: Tensor):
        """Conditioning -> its quantized form (by the conditioning stage) and token indices int64 (b, l).

        Raises ValueError for tokens that the transformer cannot read, and labels that the stage does not have.
        """
        if self.downsample_cond_size > -1:
            c = F.interpolate(c, size=(self.downsample_cond_size, self.downsample_cond_size))
        elif self.downsample_cond_factor is not None:
            c = F.interpolate(c, scale_factor=self.downsample_cond_factor)
        quant_c, _, info = self.cond_stage_model.encode(conditioning.for_encoder(c, self.cond_stage_model))
        indices = info[2].view(c.shape[0], -1)
        conditioning.check_condition(indices, self.cond_stage_model, self._vocab_size)
        return quant_c, indices

    @torch.no_grad()
    def decode_to_img(self, index: Tensor, zshape: Sequence[int]) -> Tensor:
        """Token indices (b, h*w) or (b, h, w) in the permuter's order -> images, unclamped; zshape is (b, d, h, w)."""
        b, d, h, w = zshape
        index = self.permuter(index.reshape(b, -1), reverse=True)
        quant_z = self.first_stage_model.quantize.get_codebook_entry(index.reshape(-1), shape=(b, h, w, d))
        return self.first_stage_model.decode(quant_z)

    top_k_logits = staticmethod(top_k_logits)

    @torch.no_grad()
    def sample(
        self,
        x: Tensor,
        c: Tensor,
        steps: int,
        temperature: float = 1.0,
        sample: bool = False,
        top_k: int | None = None,
        callback: Callable[[int], None] = lambda k: None,
        top_p: float | None = None,
        generator: Generators = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Continue the image tokens x (b, n), n >= 0, given c (b, l), by `steps` tokens -> (b, n + steps).

        Draws where `sample`, else takes the most likely token; of a larger vocabulary only codes of the first stage.
        `generator` is one, or one per row. callback(k) is called before step k. With pkeep <= 0 all image positions are
        predicted at once, the known ones anew. `guidance_scale` s other than 1 draws from the logits
        null + s (conditional - null), which computes everything twice (Ho & Salimans 2022, eq. 6, where s = 1 + w).
        """
        assert not self.transformer.training, "sample in eval mode"
        check_temperature(temperature)
        self._check_length(c.shape[1], x.shape[1] + steps)
        choose = partial(_choose, temperature=temperature, top_k=top_k, top_p=top_p, sample=sample)
        if self.pkeep <= 0.0:
            return self._sample_at_once(x, c, steps, guidance_scale, choose, generator)
        next_logits = self._next_logits(c, x.shape[1] + steps, guidance_scale)
        for k in range(steps):
            callback(k)
            x = torch.cat((x, choose(next_logits(x), generator=generator)), dim=1)
        return x

    def _next_logits(self, c: Tensor, length: int, guidance_scale: float) -> Callable[[Tensor], Tensor]:
        """The function from the image tokens so far (b, n) to the logits (b, v) of the next, for n < `length`."""
        guided = guidance_scale != 1.0
        prefix = torch.cat((c, self.null_condition(c))) if guided else c  # (b, l) or (2 b, l)
        read = self._reader(len(prefix), prefix.shape[1] + length - 1)

        def next_logits(x: Tensor) -> Tensor:
            logits = read(torch.cat((prefix, torch.cat((x, x)) if guided else x), dim=1))[:, : self._n_codes]
            return guide(*logits.chunk(2), guidance_scale) if guided else logits

        return next_logits

    def _reader(self, rows: int, length: int) -> Callable[[Tensor], Tensor]:
        """The function from all tokens so far to the logits of the next; with a cache from where that is exact."""
        if not hasattr(self.transformer, "forward_cached"):
            return lambda tokens: self.transformer(tokens)[0][:, -1]
        n_unmasked = self.transformer.n_unmasked
        cache = self.transformer.new_cache(rows, length)

        def read(tokens: Tensor) -> Tensor:
            if tokens.shape[1] < n_unmasked:
                return self.transformer(tokens)[0][:, -1]
            return self.transformer.forward_cached(tokens[:, cache.length :], cache)

        return read

    def _sample_at_once(
        self, x: Tensor, c: Tensor, steps: int, guidance_scale: float, choose: Callable, generator: Generators
    ) -> Tensor:
        known, length = x.shape[1], x.shape[1] + steps
        if c.shape[1] != length:
            raise ValueError(f"pkeep <= 0 needs as many conditioning as image tokens: {c.shape[1]} against {length}")

        def logits_given(c: Tensor) -> Tensor:
            logits, _ = self.transformer(torch.cat((c, x, c[:, known:-1]), dim=1))
            return logits[:, length - 1 :, : self._n_codes].flatten(0, 1)  # (b, l + n + steps - 1, v) -> (b*length, v)

        logits = logits_given(c)
        if guidance_scale != 1.0:
            logits = guide(logits, logits_given(self.null_condition(c)), guidance_scale)
        if generator is not None and not isinstance(generator, torch.Generator):
            generator = [row_generator for row_generator in generator for _ in range(length)]
        return choose(logits, generator=generator).view(-1, length)  # (b*length, 1) -> (b, length)

    @property
    def _n_codes(self) -> int | None:
        return conditioning.n_codes(self.first_stage_model)

    def get_input(self, key: str, batch: Mapping) -> Tensor:
        """batch[key] as a tensor: images channel-first (b, c, h, w); labels and token lists as they are."""
        if key not in batch:
            raise ValueError(
                f"the batch has no {key!r}, only {', '.join(map(repr, batch))}: set first_stage_key and cond_stage_key "
                "to what the data set gives"
            )
        x = batch[key]
        if x.ndim >= 3:
            x = image_from_batch(x)
        return x.float() if x.dtype == torch.float64 else x

    def get_xc(self, batch: Mapping, N: int | None = None) -> tuple[Tensor, Tensor]:
        """Images and conditioning of a batch, the first N of each."""
        return self.get_input(self.first_stage_key, batch)[:N], self.get_input(self.cond_stage_key, batch)[:N]

    def shared_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        """Mean cross entropy of the image tokens in nats, of a batch of images or of cached codes."""
        if is_cached(batch):
            codes, c_indices = cached_codes(self, batch)
            target = self.permuter(codes)
            logits = self.predict(target, c_indices)
        else:
            logits, target = self(*self.get_xc(batch))
        return F.cross_entropy(logits.flatten(0, 1), target.flatten())  # (b, h*w, v), (b, h*w) -> ()

    def configure_model(self) -> None:
        """Share the transformer out to the processes where the Trainer's strategy is one that does (`fsdp`)."""
        if self.device_mesh is not None:
            in_half = self.trainer.precision == "bf16-mixed"
            shard(self.transformer, self.device_mesh["data_parallel"], borrow_in_bfloat16=in_half)

    def on_fit_start(self) -> None:
        check_caches(self)

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        loss = self.shared_step(batch, batch_idx)
        check_finite(self, {"train/loss": loss}, step=self.global_step, inputs={})
        self.log("train/loss", loss, prog_bar=True, logger=True, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        loss = self.shared_step(batch, batch_idx)
        check_finite(self, {"val/loss": loss}, step=self.global_step, inputs={})
        self.log("val/loss", loss, prog_bar=True, logger=True, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    @torch.no_grad()
    def log_images(
        self,
        batch: Mapping,
        temperature: float | None = None,
        top_k: int | None = None,
        callback: Callable[[int], None] | None = None,
        lr_interface: bool = False,
        pl_module: pl.LightningModule | None = None,
        **kwargs,
    ) -> dict[str, Tensor]:
        """Inputs, reconstructions, conditioning and three samples of at most four examples: given the upper half of
        the image's tokens, free, and the most likely token at each step. Scene layouts are drawn by the data set of
        pl_module's trainer (default: this module's). Cached codes are decoded: inputs equal reconstructions."""
        if lr_interface:
            raise NotImplementedError("lr_interface belonged to a super-resolution variant that was never published")
        if is_cached(batch):
            z_indices, c_indices, zshape, quant_c = cached_examples(self, batch, n=4)
            x = c = None
        else:
            x, c = self.get_xc(batch, N=4)
            quant_z, z_indices = self.encode_to_z(x)
            quant_c, c_indices = self.encode_to_c(c)
            zshape = quant_z.shape
        reconstructions = self.decode_to_img(z_indices, zshape)
        log = {"inputs": reconstructions if x is None else x, "reconstructions": reconstructions}
        if self.cond_stage_key in conditioning.LAYOUTS:
            size = reconstructions.shape[2:][::-1]  # width first, as the plots want it (D64)
            log |= conditioning.show_layouts(pl_module or self, self.cond_stage_key, quant_c, size)
        elif quant_c is not None:
            log |= conditioning.show_condition(self.cond_stage_model, self.cond_stage_key, c, quant_c)
        samples = self._samples(z_indices, c_indices, temperature, top_k, callback or (lambda k: None))
        return log | {key: self.decode_to_img(index, zshape) for key, index in samples.items()}

    def _samples(
        self, z: Tensor, c: Tensor, temperature: float | None, top_k: int | None, callback: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Tokens of the logged samples, like z (b, h*w); which is drawn first decides the random numbers."""
        length = z.shape[1]
        half, nothing = z[:, : length // 2], z[:, :0]
        options = {
            "temperature": 1.0 if temperature is None else temperature,
            "top_k": 100 if top_k is None else top_k,
            "callback": callback,
            "sample": True,
        }
        return {
            "samples_half": self.sample(half, c, steps=length - half.shape[1], **options),
            "samples_nopix": self.sample(nothing, c, steps=length, **options),
            "samples_det": self.sample(nothing, c, steps=length, callback=callback),
        }

    def configure_optimizers(self):
        """AdamW; weight decay 0.01 on the weights of linear layers only, groups sorted by name (published order)."""
        linear = {
            f"{name}.weight" for name, module in self.transformer.named_modules() if isinstance(module, nn.Linear)
        }
        parameters = dict(self.transformer.named_parameters())
        groups = [
            {"params": [parameters[name] for name in sorted(linear)], "weight_decay": 0.01},
            {"params": [parameters[name] for name in sorted(parameters.keys() - linear)], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.95), fused=can_fuse(self))
        return with_schedule(optimizer, self.scheduler_config)


def _frozen(stage):
    """A stage in eval mode for ever, without gradients; stages may be plain objects."""
    stage = stage.eval()
    stage.train = partial(disabled_train, stage)  # a bound method of it could not be pickled for spawned processes
    if isinstance(stage, nn.Module):
        stage.requires_grad_(False)
    return stage


def _choose(
    logits: Tensor, *, temperature: float, top_k: int | None, top_p: float | None, sample: bool, generator: Generators
) -> Tensor:
    """One token (r, 1) per row of logits (r, v): the most likely one, or drawn after scaling and filtering."""
    if not sample:
        return logits.argmax(dim=-1, keepdim=True)
    probabilities = top_k_top_p_filtering(logits / temperature, top_k=top_k, top_p=top_p).softmax(dim=-1)
    return choose_token(probabilities, sample=True, generator=generator)
