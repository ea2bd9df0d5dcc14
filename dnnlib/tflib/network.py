"""The base class of all networks: a Keras model with the verbs of the original's Network."""

import contextlib
import contextvars
from collections import OrderedDict
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from dnnlib.tflib.frozen import FreezableFunction
from dnnlib.tflib.tfutil import is_keras_tensor, tf_variable
from dnnlib.util import EasyDict


class NetworkVariable:
    """A variable of a network as `Network.vars` hands it out.

    It converts to a tensor or array wherever one is expected and, unlike a tf.Variable, may be the key of a dict
    (`tflib.set_vars({var: value})`). `variable` is the tf.Variable itself.
    """

    def __init__(self, name, variable):
        self.name = name
        self.variable = variable
        self.shape = variable.shape
        self.dtype = variable.dtype
        self.trainable = variable.trainable

    def numpy(self):
        return self.variable.numpy()

    def eval(self):
        """The value, by the name it had in TensorFlow 1."""
        return self.variable.numpy()

    def assign(self, value):
        self.variable.assign(value)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.numpy(), dtype)

    def __tf_tensor__(self, dtype=None, name=None):
        return tf.convert_to_tensor(self.variable, dtype, name)

    def __repr__(self):
        return f'<NetworkVariable {self.name} {tuple(self.shape)}>'


# Settings that may be given for a single evaluation. The others decide which variables there are.
PER_CALL_SETTINGS = {
    'truncation_psi', 'truncation_cutoff', 'truncation_psi_val', 'truncation_cutoff_val', 'dlatent_avg_beta', 'style_mixing_prob',
    'is_training', 'is_validation', 'return_dlatents', 'randomize_noise', 'normalize_latents', 'lod_stage', 'full_resolution',
    'is_template_graph', 'fused_modconv', 'structure', 'force_clean_graph', 'dtype', 'num_fp16_res'}


_values_follow = contextvars.ContextVar('values_follow', default=False)


@contextlib.contextmanager
def values_follow():
    """Variables made inside are zero at first, for each is given a value afterwards: drawing thirty million numbers takes a second."""
    token = _values_follow.set(True)
    try:
        yield
    finally:
        _values_follow.reset(token)


def initializer_now(initializer):
    """The initializer of a variable that is made now."""
    return 'zeros' if _values_follow.get() else initializer


class Network(keras.Model):
    """A network that is built when it is made, from the settings of its class and the arguments given.

    A subclass has a table `settings` of its arguments and their defaults, makes its variables and layers in `build` with
    `add_var` and `add_layer`, and computes in `call`, where `self.settings_for(kwargs)` merges what the caller gives
    for this evaluation. Networks take and return images as [N, C, H, W] float32, about [-1, 1], also where `dtype` has them
    compute in half precision.

    Args:
        name:           Name of the network, 'G', 'D', 'Gs'. None = the class's name.
        ignore_unknown: Accept and keep arguments that `settings` does not list. Components are made so: they
                        receive all the arguments of the network that they are part of.
        static_kwargs:  Settings that differ from the defaults. An unknown one is a ValueError.
    """

    settings = {}
    input_names = ()       # of the positional arguments of `call`
    output_names = ()

    def __init__(self, name=None, ignore_unknown=False, **static_kwargs):
        super().__init__(name=name or type(self).__name__)
        self.input_names, self.output_names = type(self).input_names, type(self).output_names  # Keras 2 has put None in their place.
        tf.random.get_global_generator()  # It must exist before a function that draws from it is traced.
        self.may_freeze = True  # May `run` go over to evaluation from constants by itself?
        # Keras wraps plain containers of a layer in its own; a namespace keeps these as they are.
        self._net = SimpleNamespace(static_kwargs=static_kwargs, layers={}, own_vars=OrderedDict(), components=EasyDict(), functions={},
                                    is_component=ignore_unknown)
        if not ignore_unknown:
            self.check_kwargs(static_kwargs, self.known_kwargs())
        self.kw = SimpleNamespace(**{**self.settings, **{k: v for k, v in static_kwargs.items() if k in self.settings}})
        self.build()

    def __call__(self, *inputs, **kwargs):
        # Keras refuses settings that mix tensors and plain values; it is needed only where a model of models is put together.
        if any(is_keras_tensor(x) for x in inputs):
            return super().__call__(*inputs, **kwargs)
        if not self._net.is_component:  # The network that it is part of has checked them.
            self.check_kwargs(kwargs, (self.known_kwargs() & PER_CALL_SETTINGS) | {'rng'})
        return self.call(*self._fill_missing(inputs, tf.zeros), **kwargs)

    # ---- For the subclasses ----

    @classmethod
    def all_settings(cls, static_kwargs):
        """Names of all arguments that mean something to a network made with these."""
        return set(cls.settings)

    def known_kwargs(self):
        """Names of all arguments that mean something to this network."""
        return self.all_settings(self._net.static_kwargs)

    def check_kwargs(self, kwargs, known):
        unknown = sorted(set(kwargs) - known)
        if unknown:
            raise ValueError(f'{type(self).__name__}: unknown arguments {unknown}; known are {sorted(known)}')

    def settings_for(self, dynamic_kwargs):
        """The settings as a namespace, with those given for one evaluation put over those of the network."""
        return SimpleNamespace(**{**vars(self.kw), **{k: v for k, v in dynamic_kwargs.items() if k in self.settings}})

    def add_var(self, name, shape, initializer, trainable=False):
        """Make a variable of the network itself."""
        var = self.add_weight(name=name, shape=shape, initializer=initializer_now(initializer), trainable=trainable)
        self._net.own_vars[name] = var
        return var

    def add_layer(self, layer, *input_shapes):
        """Build `layer` for inputs of these shapes (layout inside, None for the batch) and keep it by its scope."""
        layer.build(*input_shapes)
        setattr(self, 'layer_' + layer.scope.replace('/', '_'), layer)  # So that Keras knows of it.
        self._net.layers[layer.scope] = layer
        for name in layer.var_names:
            self._net.own_vars[f'{layer.scope}/{name}'] = layer.var(name)

    def add_component(self, key, network):
        setattr(self, f'component_{key}', network)
        self._net.components[key] = network

    def layer(self, scope):
        """The layer made under this scope, such as '64x64/Conv0_up'."""
        return self._net.layers[scope]

    # ---- Settings and variables ----

    @property
    def static_kwargs(self):
        """The arguments that the network was made with, without defaults."""
        return EasyDict(self._net.static_kwargs)

    @property
    def components(self):
        """Networks that this one consists of, by name: `G.components.mapping`."""
        return self._net.components

    def named_variables(self, trainable=None):
        """OrderedDict of local name -> tf.Variable: own variables, then those of the components.

        Args:
            trainable: Only those that are (True) or are not (False). None = all.
        """
        named = OrderedDict((name, tf_variable(var)) for name, var in self._net.own_vars.items())
        for component in self.components.values():
            named.update((f'{component.name}/{name}', var) for name, var in component.named_variables().items())
        return OrderedDict((name, var) for name, var in named.items() if trainable in (None, var.trainable))

    def variables_by_layer(self):
        """OrderedDict of layer -> {local name: tf.Variable}, in the order in which the layers were made: a discriminator's from the
        images on. Variables of the network itself, such as noise0, stand alone under their own names."""
        layer_of = {f'{scope}/{name}': scope for scope, layer in self._net.layers.items() for name in layer.var_names}
        by_layer = OrderedDict()
        for name, var in self._net.own_vars.items():
            by_layer.setdefault(layer_of.get(name, name), {})[name] = tf_variable(var)
        for component in self.components.values():
            for layer, variables in component.variables_by_layer().items():
                by_layer[f'{component.name}/{layer}'] = {f'{component.name}/{name}': var for name, var in variables.items()}
        return by_layer

    @property
    def own_vars(self):
        """`vars` without those of the components."""
        return OrderedDict((name, NetworkVariable(name, tf_variable(var))) for name, var in self._net.own_vars.items())

    @property
    def vars(self):
        """OrderedDict of local name -> NetworkVariable, in the original's order and with its names."""
        return OrderedDict((name, NetworkVariable(name, var)) for name, var in self.named_variables().items())

    @property
    def trainables(self):
        """The part of `vars` that training changes."""
        return OrderedDict((name, NetworkVariable(name, var)) for name, var in self.named_variables(trainable=True).items())

    def find_var(self, var_or_local_name):
        """The NetworkVariable of this name; a variable is returned as it is. KeyError with the nearest names."""
        if not isinstance(var_or_local_name, str):
            return var_or_local_name
        variables = self.vars
        if var_or_local_name not in variables:
            raise KeyError(f'{self.name} has no variable {var_or_local_name!r}; it has {list(variables)[:8]} ...')
        return variables[var_or_local_name]

    def get_var(self, var_or_local_name):
        """Value of a variable, as numpy array."""
        return self.find_var(var_or_local_name).numpy()

    def set_var(self, var_or_local_name, new_value):
        """Assign a value of the variable's shape."""
        self.find_var(var_or_local_name).assign(np.asarray(new_value, np.float32))

    def copy_vars_from(self, src_net):
        """Take over the values of all variables of `src_net` that have a counterpart here."""
        self._copy(src_net, self.named_variables())

    def copy_own_vars_from(self, src_net):
        """`copy_vars_from` without the components."""
        self._copy(src_net, {name: tf_variable(var) for name, var in self._net.own_vars.items()})

    def copy_trainables_from(self, src_net):
        """`copy_vars_from` for trainable variables alone."""
        self._copy(src_net, self.named_variables(trainable=True))

    @staticmethod
    def _copy(src_net, targets):
        sources = src_net.named_variables()
        for name, var in targets.items():
            if name in sources:
                if sources[name].shape != var.shape:
                    raise ValueError(f'cannot copy {name}: expected shape {tuple(var.shape)}, received {tuple(sources[name].shape)}')
                var.assign(sources[name])

    def clone(self, name=None, **new_static_kwargs):
        """A network of the same class, settings and values; `new_static_kwargs` change settings."""
        with contextlib.nullcontext() if new_static_kwargs else values_follow():  # Changed settings may come with variables of their own.
            net = type(self)(name or self.name, **{**self.static_kwargs, **new_static_kwargs})
        net.copy_vars_from(self)
        return net

    # ---- Copies and files ----

    def __deepcopy__(self, memo):
        return self.clone()

    def __reduce__(self):
        raise TypeError('networks are not pickled directly: write them with training.misc.save_pkl((G, D, Gs), path)')

    def __reduce_ex__(self, protocol):
        return self.__reduce__()

    def __setstate__(self, state):
        raise TypeError('network pickles are not opened by pickle.load, which would run what they contain: '
                        'use pretrained_networks.load_networks(path) or training.misc.load_pkl(path)')

    def get_config(self):
        return {'name': self.name, **self.static_kwargs}

    @classmethod
    def from_config(cls, config):
        return cls(**{name: value for name, value in config.items() if name not in ('trainable', 'dtype')})

    # ---- Shapes ----

    def input_spec_shapes(self):
        """Shapes of the inputs, None for the batch, in the order of `input_names`."""
        raise NotImplementedError

    @property
    def input_shapes(self):
        """List of the inputs' shapes as lists, None for the batch: [[None, 512], [None, 0]]."""
        return [list(shape) for shape in self.input_spec_shapes()]

    @property
    def input_shape(self):
        """Shape of the first input: [None, 512]."""
        return self.input_shapes[0]

    @property
    def output_shapes(self):
        """List of the outputs' shapes as lists, None for the batch: [[None, 3, 1024, 1024]]."""
        return [list(shape) for shape in self.output_spec_shapes()]

    @property
    def output_shape(self):
        """Shape of the first output."""
        return self.output_shapes[0]

    @property
    def num_inputs(self):
        return len(self.input_names)

    @property
    def num_outputs(self):
        return len(self.output_names)

    # ---- Evaluation ----

    def lod_stage(self):
        """Whole part of the variable lod where the network has layers that depend on it; None = it has none."""
        if 'lod_stage' not in self.known_kwargs():
            return None
        return int(np.floor(self.get_var('lod')))

    def get_output_for(self, *in_expr, return_as_list=False, **dynamic_kwargs):
        """Evaluate on tensors; None stands for zeros where another input tells the batch."""
        out = self(*in_expr, **dynamic_kwargs)
        return [*out] if return_as_list and isinstance(out, (tuple, list)) else [out] if return_as_list else out

    def _fill_missing(self, inputs, zeros):
        shapes = self.input_shapes
        inputs = [*inputs, *[None] * (len(shapes) - len(inputs))]
        if len(inputs) > len(shapes):
            raise ValueError(f'{self.name}: expected {len(shapes)} inputs {self.input_names}, received {len(inputs)}')
        given = [x for x in inputs if x is not None]
        if not given:
            raise ValueError(f'{self.name}: expected at least one input, received None only')
        batch = given[0].shape[0] if given[0].shape[0] is not None else tf.shape(given[0])[0]
        return [zeros([batch, *shape[1:]]) if x is None else x for x, shape in zip(inputs, shapes, strict=True)]

    def run(self, *in_arrays, input_transform=None, output_transform=None, return_as_list=False, print_progress=False,
            minibatch_size=None, num_gpus=1, assume_frozen=False, **dynamic_kwargs):
        """Evaluate on numpy arrays.

        Args:
            in_arrays:        One array per input, all with the same first axis; None = zeros.
            input_transform:  dict(func=f, **kwargs): inputs = f(*inputs, **kwargs) first. None = as they are.
            output_transform: dict(func=f, **kwargs): outputs = f(*outputs, **kwargs) last. None = as they are.
            return_as_list:   A list even of one output.
            print_progress:   Show a bar.
            minibatch_size:   Items computed at once. None = all.
            num_gpus:         Accepted for the original's sake: TensorFlow's device placement decides.
            assume_frozen:    On a CPU, evaluate from constants at once, which takes some seconds to prepare (dnnlib/tflib/frozen.py);
                              False = only when enough has been evaluated for it to pay, and if `may_freeze`.
            dynamic_kwargs:   Settings for this evaluation: truncation_psi, randomize_noise, is_validation, ...

        Returns:
            Numpy array [N, ...], or a list of them where there are several outputs.
        """
        self.check_kwargs(dynamic_kwargs, self.known_kwargs() & PER_CALL_SETTINGS)
        if minibatch_size is not None and minibatch_size < 1:
            raise ValueError(f'{self.name}: expected a minibatch_size above 0, or None; received {minibatch_size}')
        arrays = [None if x is None else np.asarray(x, np.float32) for x in in_arrays]
        arrays = self._fill_missing(arrays, lambda shape: np.zeros(shape, np.float32))
        num_items = len(arrays[0])
        if not input_transform:
            for name, array, shape in zip(self.input_names, arrays, self.input_shapes, strict=True):
                if list(array.shape) != [num_items, *shape[1:]]:
                    raise ValueError(f'{self.name}: expected {name} of shape {[num_items, *shape[1:]]}, received {list(array.shape)}')
        stage = self.lod_stage()
        if stage is not None:
            dynamic_kwargs = {'lod_stage': stage, **dynamic_kwargs}
        function, tensors = self._function_for(arrays, input_transform, output_transform, dynamic_kwargs)
        if num_items == 0:  # Not every kernel of TensorFlow takes an empty batch: the shapes are those of one item.
            arrays = [np.zeros([1, *a.shape[1:]], np.float32) for a in arrays]
        step = minibatch_size or len(arrays[0])
        parts = []
        freeze = True if assume_frozen else None if self.may_freeze else False
        for each in self._net.functions.values():  # So that none holds weights of the past.
            each.refresh()
        for begin in tqdm(range(0, len(arrays[0]), step), desc=self.name, disable=not print_progress):
            outputs = function([tf.constant(a[begin:begin + step]) for a in arrays], tensors, freeze)
            parts.append([x.numpy() for x in outputs])
        outputs = [np.concatenate(part)[:num_items] for part in zip(*parts, strict=True)]
        return outputs if return_as_list or len(outputs) > 1 else outputs[0]

    def _function_for(self, arrays, input_transform, output_transform, dynamic_kwargs):
        """The FreezableFunction for these options, and the options that are fed to it as tensors."""
        # Numbers go in as tensors: a film that turns truncation_psi slowly must not trace anew for every frame.
        tensors = {k: tf.constant(v, tf.float32) for k, v in dynamic_kwargs.items() if isinstance(v, (float, np.floating))}
        static = {k: v for k, v in dynamic_kwargs.items() if k not in tensors}
        shapes = tuple(a.shape[1:] for a in arrays)
        # The device counts: what is traced for a GPU need not run on a CPU.
        key = _frozen([shapes, input_transform, output_transform, sorted(tensors), static, tf.constant(0.0).device])
        if key not in self._net.functions:
            def evaluate(inputs, tensors):
                if input_transform:
                    inputs = _apply_transform(input_transform, inputs)
                outputs = self(*inputs, **static, **tensors)
                outputs = [*outputs] if isinstance(outputs, (tuple, list)) else [outputs]
                return _apply_transform(output_transform, outputs) if output_transform else outputs
            inputs_spec = [tf.TensorSpec([None, *shape], tf.float32) for shape in shapes]
            tensors_spec = {k: tf.TensorSpec([], tf.float32) for k in tensors}
            function = tf.function(evaluate, input_signature=[inputs_spec, tensors_spec], autograph=False)
            self._net.functions[key] = FreezableFunction(function, self.named_variables(trainable=True).values())
        return self._net.functions[key], tensors

    # ---- Printing ----

    def list_layers(self):
        """List of (scope, parameters, output shape, weight shape) in the order of computation."""
        specs = [tf.TensorSpec(shape, tf.float32) for shape in self.input_shapes]
        with record_layers() as rows:
            def evaluate(*inputs):
                rows.clear()  # TensorFlow may trace a function more than once.
                return self(*inputs)
            tf.function(evaluate, autograph=False).get_concrete_function(*specs)
        return rows

    def print_layers(self, title=None, hide_layers_with_no_params=False):
        """Print the table of layers as the original does.

        Args:
            title:                      Head of the first column. None = the name of the network.
            hide_layers_with_no_params: Leave out what has no trainable parameters.
        """
        rows = [[title or self.name, 'Params', 'OutputShape', 'WeightShape'], ['---'] * 4]
        for scope, params, shape, weight_shape in self.list_layers():
            if params or not hide_layers_with_no_params:
                rows.append([scope, str(params) if params else '-', _shape_text(shape), _shape_text(weight_shape) if weight_shape else '-'])
        total = sum(int(np.prod(var.shape)) for var in self.named_variables(trainable=True).values())
        rows += [['---'] * 4, ['Total', str(total), '', '']]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        print()
        for row in rows:
            print('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
        print()


def _frozen(value):
    """A hashable value that is equal for equal options: nests of plain values, arrays, functions (by identity)."""
    if isinstance(value, dict):
        return tuple((key, _frozen(item)) for key, item in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, (np.ndarray, tf.Tensor)):
        array = np.asarray(value)
        return array.shape, array.dtype.str, array.tobytes()
    return value if value is None or isinstance(value, (str, int, float, bool)) else id(value)


def _apply_transform(transform, tensors):
    kwargs = dict(transform)
    out = kwargs.pop('func')(*tensors, **kwargs)
    return [*out] if isinstance(out, (tuple, list)) else [out]


# ---- What print_layers needs: every layer notes itself while a recording runs ----

_recording = None


@contextlib.contextmanager
def record_layers():
    """Collect the rows that `note_layer` adds inside the with-block."""
    global _recording
    assert _recording is None
    _recording = SimpleNamespace(rows=[], prefix='')
    try:
        yield _recording.rows
    finally:
        _recording = None


@contextlib.contextmanager
def layer_prefix(prefix):
    """Rows noted inside the with-block belong to the component of this name."""
    if _recording is None:
        yield
        return
    outer, _recording.prefix = _recording.prefix, f'{_recording.prefix}{prefix}/'
    try:
        yield
    finally:
        _recording.prefix = outer


def note_layer(scope, output_shape, params=0, weight_shape=None):
    """Add a row while a recording runs. `output_shape` is as the user sees it: channels first."""
    if _recording is not None:
        _recording.rows.append((_recording.prefix + scope, params, tuple(output_shape), weight_shape and tuple(weight_shape)))


def _shape_text(shape):
    if len(shape) == 1:
        return f'({"?" if shape[0] is None else shape[0]},)'
    return '(' + ', '.join('?' if size is None else str(size) for size in shape) + ')'
