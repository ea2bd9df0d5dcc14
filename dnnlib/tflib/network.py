"""The base class of all networks: a Keras model with the methods of the original's Network."""

import contextlib
import contextvars
import copyreg
import math
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnlib.progress import ProgressBar
from dnnlib.tflib.frozen import FreezableFunction
from dnnlib.tflib.tfutil import is_keras_tensor, tf_variable
from dnnlib.util import EasyDict, get_obj_by_name

# How pickles describe networks. Imported by name: training is built on dnnlib, so dnnlib does not import it.
_STATE_FUNC = 'training.misc.pickled_state'
_NETWORK_FUNC = 'training.misc.network_from_pickle'
_FIND_FUNC = 'training.nets.registry.find_network'

# Arguments of `run` that the original had and that mean nothing here, and what to do instead. None = they are ignored.
_FORMER_ARGUMENTS = {
    'structure': None,          # It chose between equivalent graphs.
    'force_clean_graph': None,
    'is_template_graph': None,
    'custom_inputs': 'There are no graphs: call the network on tensors or variables, net(w), inside a tf.GradientTape; '
                     'or project with projector.Projector and wplus=True.',
}
_noted = set()  # Sets of arguments about which a note was printed.


class NetworkVariable:
    """A variable of a network, as listed by `Network.vars`.

    It converts to a tensor or array where one is expected. Unlike a tf.Variable it can be the key of a dict, as in
    `tflib.set_vars({var: value})`. The attribute `variable` is the tf.Variable.
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
        """Value as numpy array, under the name of TensorFlow 1."""
        return self.variable.numpy()

    def value(self):
        """Value as tensor."""
        return tf.convert_to_tensor(self.variable)

    def assign(self, value):
        self.variable.assign(value)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.numpy(), dtype)

    def __tf_tensor__(self, dtype=None, name=None):
        return tf.convert_to_tensor(self.variable, dtype, name)

    def __repr__(self):
        return f'<NetworkVariable {self.name} {tuple(self.shape)}>'


_skip_initializers = contextvars.ContextVar('skip_initializers', default=False)


@contextlib.contextmanager
def skip_initializers():
    """Variables created inside the with-block start as zeros, because the caller assigns all their values afterwards.

    Drawing 30 million random numbers takes about a second.
    """
    token = _skip_initializers.set(True)
    try:
        yield
    finally:
        _skip_initializers.reset(token)


class VariableCount:
    """Counts the variables of the networks created in a with-block, and limits them: see `count_variables`.

    Attributes:
        number:    Number of variables so far.
        num_bytes: Memory of their values, in bytes.
    """

    def __init__(self, max_number: float, max_bytes: float, create: bool):
        self.number, self.num_bytes = 0, 0
        self.create = create
        self._max_number, self._max_bytes = max_number, max_bytes

    def add(self, shape):
        """Count a float32 variable of this shape, before it is created."""
        self.number += 1
        self.num_bytes += 4 * math.prod(int(size) for size in shape)
        if self.number > self._max_number or self.num_bytes > self._max_bytes:
            raise ValueError(f'its settings describe more than the expected {self._max_number:.0f} variables '
                             f'of {self._max_bytes:.0f} bytes in all')


_variable_count: contextvars.ContextVar[VariableCount | None] = contextvars.ContextVar('variable_count', default=None)


@contextlib.contextmanager
def count_variables(max_number: float = math.inf, max_bytes: float = math.inf, create: bool = True):
    """Context manager that counts the variables of the networks created within.

    Args:
        max_number: Largest number of variables. One more raises a ValueError.
        max_bytes:  Largest memory of all their values, in bytes. More raises a ValueError, before it is allocated.
        create:     False = only count: the networks have no variables, and can only be thrown away.

    Returns:
        VariableCount.
    """
    count = VariableCount(max_number, max_bytes, create)
    token = _variable_count.set(count)
    try:
        yield count
    finally:
        _variable_count.reset(token)


def create_variable(layer, name, shape, initializer, trainable):
    """Create a variable of a layer or network as `count_variables` and `skip_initializers` around it ask for."""
    count = _variable_count.get()
    if count is not None:
        count.add(shape)
        if not count.create:
            return SimpleNamespace(shape=tuple(shape))
    initializer = 'zeros' if _skip_initializers.get() else initializer
    return layer.add_weight(name=name, shape=tuple(shape), initializer=initializer, trainable=trainable)


_call_dtype = contextvars.ContextVar('call_dtype', default='float32')


def call_dtype() -> str:
    """The argument `dtype` of the network that is being called, in this thread; 'float32' if it was not given."""
    return _call_dtype.get()


@contextlib.contextmanager
def calling_with_dtype(dtype: str):
    """Context manager within which `call_dtype` returns `dtype`."""
    token = _call_dtype.set(dtype)
    try:
        yield
    finally:
        _call_dtype.reset(token)


class Network(keras.Model):
    """A network that is built by its constructor, from the settings of its class and the arguments given.

    A subclass lists its arguments with their defaults in `settings`, creates variables and layers in `build` with
    `add_var` and `add_layer`, and computes in `call`, where `self.settings_for(kwargs)` merges the arguments of that
    call into the settings. Networks take and return images as [N, C, H, W] float32, about [-1, 1], even where `dtype`
    makes them compute in half precision.

    Args:
        name:           Name of the network, such as 'G', 'D' or 'Gs'. None = name of the class.
        ignore_unknown: Accept and keep arguments that `settings` does not list. Components are created this way,
                        because they receive all arguments of the network they belong to.
        static_kwargs:  Settings that differ from the defaults.

    Raises:
        ValueError: There are unknown arguments, or their values are invalid.
    """

    settings = {}                 # Name of an argument -> its default.
    call_settings = frozenset()   # Those that can be given for a single call. The others determine the variables.
    input_names = ()              # Names of the positional arguments of `call`.
    output_names = ()

    # Of a discriminator: strength of the augmentation it was trained with last, kept in pickles. None = not known.
    augment_p: float | None = None

    def __init__(self, name=None, ignore_unknown=False, **static_kwargs):
        super().__init__(name=name or type(self).__name__)
        # Keras 2 has overwritten these two with None.
        self.input_names, self.output_names = type(self).input_names, type(self).output_names
        tf.random.get_global_generator()  # Must exist before a function that uses it is traced.
        self.may_freeze = True  # May `run` switch to constant weights by itself? See dnnlib/tflib/frozen.py.
        # Keras replaces plain containers among the attributes of a layer by its own. A namespace protects them.
        self._net = SimpleNamespace(static_kwargs=static_kwargs, layers={}, own_vars=OrderedDict(),
                                    components=EasyDict(), functions={}, is_component=ignore_unknown,
                                    origin=None, is_pickled=False, owner_settings=frozenset())
        if not ignore_unknown:
            self.check_kwargs(static_kwargs, self.known_kwargs())
        self.kw = SimpleNamespace(**{**self.settings, **{k: v for k, v in static_kwargs.items() if k in self.settings}})
        self.build(None)

    def __call__(self, *inputs, **kwargs):
        # Keras' own __call__ is needed only to compose models. It rejects arguments that mix tensors and numbers.
        if any(is_keras_tensor(x) for x in inputs):
            return super().__call__(*inputs, **kwargs)
        if not self._net.is_component:  # Arguments of a component are checked by the network it belongs to.
            self.check_kwargs(kwargs, self.known_call_kwargs() | {'rng'})
        return self._call(*self._fill_missing(inputs, tf.zeros), **kwargs)

    def _call(self, *inputs, **kwargs):
        with calling_with_dtype(kwargs.get('dtype', 'float32')):
            return self.call(*inputs, **kwargs)

    # ---- For the subclasses ----

    @classmethod
    def all_settings(cls, static_kwargs: dict) -> set[str]:
        """Names of all arguments of a network created with `static_kwargs`, including those of its components."""
        return set(cls.settings)

    @classmethod
    def all_call_settings(cls, static_kwargs: dict) -> set[str]:
        """The part of `all_settings` that can be given for a single call."""
        return set(cls.call_settings)

    def known_kwargs(self) -> set[str]:
        """`all_settings` of this network."""
        return self.all_settings(self._net.static_kwargs)

    def known_call_kwargs(self) -> set[str]:
        """`all_call_settings` of this network."""
        return self.all_call_settings(self._net.static_kwargs)

    def check_kwargs(self, kwargs, known):
        """ValueError if `kwargs` has a name that is not in `known`."""
        unknown = sorted(set(kwargs) - known)
        if unknown:
            raise ValueError(f'{type(self).__name__}: unknown arguments {unknown}; known are {sorted(known)}')

    def settings_for(self, dynamic_kwargs: dict) -> SimpleNamespace:
        """The settings for one call: those of the network, overridden by `dynamic_kwargs`."""
        return SimpleNamespace(**{**vars(self.kw), **{k: v for k, v in dynamic_kwargs.items() if k in self.settings}})

    def add_var(self, name, shape, initializer, trainable=False):
        """Create a variable that belongs to the network itself."""
        self._net.own_vars[name] = var = create_variable(self, name, shape, initializer, trainable)
        return var

    def add_layer(self, layer, *input_shapes):
        """Build `layer` for inputs of these shapes (internal layout, None for the batch) and register its scope."""
        layer.build(*input_shapes)
        setattr(self, 'layer_' + layer.scope.replace('/', '_'), layer)  # Keras tracks layers that are attributes.
        self._net.layers[layer.scope] = layer
        for name in layer.var_names:
            self._net.own_vars[f'{layer.scope}/{name}'] = layer.var(name)

    def add_component(self, key, network):
        """Register a network as the component `key`."""
        setattr(self, f'component_{key}', network)
        network._net.owner_settings = frozenset(self.known_call_kwargs())
        self._net.components[key] = network

    def layer(self, scope):
        """The layer with this scope, such as '64x64/Conv0_up'."""
        return self._net.layers[scope]

    # ---- Settings and variables ----

    @property
    def origin(self) -> dict[str, Any] | None:
        """Settings of the training that the network comes from, if it was read from a pickle of PyTorch; or None.

        training_set_kwargs: settings of the training set. augment_pipe: those of the augmentation, with its probability
        p; None = there was none.
        """
        return self._net.origin

    @origin.setter
    def origin(self, value: dict[str, Any] | None):
        self._net.origin = value

    @property
    def static_kwargs(self) -> EasyDict:
        """The arguments that the network was created with. A component has those of the whole network."""
        return EasyDict(self._net.static_kwargs)

    @property
    def components(self) -> EasyDict:
        """The networks that this one consists of, by name: `G.components.mapping`."""
        return self._net.components

    def named_variables(self, trainable: bool | None = None) -> OrderedDict:
        """OrderedDict of local name -> tf.Variable: own variables first, then those of the components.

        Args:
            trainable: True or False selects the variables that are or are not trainable. None = all.
        """
        named = OrderedDict((name, tf_variable(var)) for name, var in self._net.own_vars.items())
        for component in self.components.values():
            named.update((f'{component.name}/{name}', var) for name, var in component.named_variables().items())
        return OrderedDict((name, var) for name, var in named.items() if trainable in (None, var.trainable))

    def variables_by_layer(self) -> OrderedDict:
        """OrderedDict of layer -> {local name: tf.Variable}, in the order in which the layers were created.

        For a discriminator that is the order from the image to the score. Variables of the network itself, such as
        noise0, are listed under their own names.
        """
        layer_of = {f'{scope}/{name}': scope for scope, layer in self._net.layers.items() for name in layer.var_names}
        by_layer = OrderedDict()
        for name, var in self._net.own_vars.items():
            by_layer.setdefault(layer_of.get(name, name), {})[name] = tf_variable(var)
        for component in self.components.values():
            for layer, variables in component.variables_by_layer().items():
                by_layer[f'{component.name}/{layer}'] = {
                    f'{component.name}/{name}': var for name, var in variables.items()}
        return by_layer

    @property
    def own_vars(self) -> OrderedDict:
        """`vars` without those of the components."""
        return OrderedDict((name, NetworkVariable(name, tf_variable(var))) for name, var in self._net.own_vars.items())

    @property
    def vars(self) -> OrderedDict:
        """OrderedDict of local name -> NetworkVariable, with the names and the order of the original."""
        return OrderedDict((name, NetworkVariable(name, var)) for name, var in self.named_variables().items())

    @property
    def trainables(self) -> OrderedDict:
        """The trainable part of `vars`."""
        trainables = self.named_variables(trainable=True)
        return OrderedDict((name, NetworkVariable(name, var)) for name, var in trainables.items())

    def find_var(self, var_or_local_name):
        """Return the NetworkVariable of this name; a variable is returned as it is. KeyError if there is none."""
        if not isinstance(var_or_local_name, str):
            return var_or_local_name
        variables = self.vars
        if var_or_local_name not in variables:
            raise KeyError(f'{self.name} has no variable {var_or_local_name!r}. '
                           f'Some that it has: {list(variables)[:8]}')
        return variables[var_or_local_name]

    def get_var(self, var_or_local_name) -> np.ndarray:
        """Return the value of a variable."""
        return self.find_var(var_or_local_name).numpy()

    def set_var(self, var_or_local_name, new_value):
        """Assign a value of the variable's shape."""
        self.find_var(var_or_local_name).assign(np.asarray(new_value, np.float32))

    def copy_vars_from(self, src_net):
        """Copy the values of all variables of `src_net` that exist here too. ValueError if shapes differ."""
        self._copy(src_net, self.named_variables())

    def copy_own_vars_from(self, src_net):
        """`copy_vars_from` without the components."""
        self._copy(src_net, {name: tf_variable(var) for name, var in self._net.own_vars.items()})

    def copy_trainables_from(self, src_net):
        """`copy_vars_from` for trainable variables only."""
        self._copy(src_net, self.named_variables(trainable=True))

    @staticmethod
    def _copy(src_net, targets):
        sources = src_net.named_variables()
        for name, var in targets.items():
            if name in sources:
                if sources[name].shape != var.shape:
                    raise ValueError(f'cannot copy {name}: expected shape {tuple(var.shape)}, '
                                     f'received {tuple(sources[name].shape)}')
                var.assign(sources[name])

    def clone(self, name: str | None = None, **new_static_kwargs) -> 'Network':
        """Create a network of the same class with the same settings and values.

        Args:
            name:              Its name. None = the name of this network.
            new_static_kwargs: Settings that change. Variables that exist only with these are initialized at random.
        """
        with contextlib.nullcontext() if new_static_kwargs else skip_initializers():
            net = type(self)(name or self.name, **{**self._own_static_kwargs(), **new_static_kwargs})
        net.copy_vars_from(self)
        return net

    def convert(self, new_func_name: str, new_name: str | None = None, **new_static_kwargs) -> 'Network':
        """Create a network of another class, with those of the settings and values that it has in common with this one.

        Args:
            new_func_name:     Name of its class, such as 'training.networks_stylegan2.G_main'.
            new_name:          Its name. None = the name of this network.
            new_static_kwargs: Settings that change.

        Raises:
            ValueError: There is no such class, or the shapes of variables differ.
        """
        cls = get_obj_by_name(_FIND_FUNC)(new_func_name)
        kwargs = {**self._own_static_kwargs(), **new_static_kwargs}
        known = cls.all_settings(kwargs) | set(new_static_kwargs)
        net = cls(new_name or self.name, **{name: value for name, value in kwargs.items() if name in known})
        net.copy_vars_from(self)
        return net

    def setup_as_moving_average_of(self, src_net, beta: float = 0.99, beta_nontrainable: float = 0.0):
        """Make a function that moves the values of this network towards those of `src_net` whenever it is called.

        In the original the result was an operation for `tflib.run`, which calls such functions here.

        Args:
            src_net:           Network with the same variables.
            beta:              What remains of the values of trainable variables in a step: a number or variable.
            beta_nontrainable: The same for the other variables.
        """
        pairs = [(var, src_net.named_variables()[name], beta if var.trainable else beta_nontrainable)
                 for name, var in self.named_variables().items() if name in src_net.named_variables()]

        def update():
            for average, var, decay in pairs:
                average.assign(var + (average - var) * decay)
        return update

    def _own_static_kwargs(self):
        """`static_kwargs` without those that only the network it belongs to understands, if this is a component."""
        known = self.known_kwargs()
        return {key: value for key, value in self._net.static_kwargs.items() if key in known}

    # ---- Copies and files ----

    def __copy__(self):
        twin = self.clone()
        twin.origin, twin.augment_p = self.origin, self.augment_p
        return twin

    def __deepcopy__(self, memo):
        return self.__copy__()

    def __getstate__(self):
        return get_obj_by_name(_STATE_FUNC)(self)

    def __setstate__(self, state):
        # pickle.load has made an empty Network of no particular class. It becomes what the state describes.
        net = get_obj_by_name(_NETWORK_FUNC)(state)
        self.__class__ = type(net)
        object.__setattr__(self, '__dict__', net.__dict__)

    def __reduce__(self):
        return self.__reduce_ex__(2)

    def __reduce_ex__(self, protocol):
        if protocol < 2:
            raise TypeError(f'pickle: expected protocol 2 or above for networks, received {protocol}')
        state = self.__getstate__()
        self._net.is_pickled = True
        return vars(copyreg)['__newobj__'], (Network,), state

    # Pickles name the class Network, as those of the original, whose networks had no classes of their own. pickle only
    # writes another class than the one that it finds in this attribute when it has called __reduce_ex__ if they agree.
    @property
    def __class__(self) -> Any:
        net = self.__dict__.get('_net')
        if net is not None and net.is_pickled:
            net.is_pickled = False
            return Network
        return type(self)

    @__class__.setter
    def __class__(self, value):
        vars(object)['__class__'].__set__(self, value)

    def get_config(self):
        return {'name': self.name, **self._own_static_kwargs()}

    @classmethod
    def from_config(cls, config):
        return cls(**{name: value for name, value in config.items() if name not in ('trainable', 'dtype')})

    # ---- Shapes ----

    def input_spec_shapes(self):
        """Shapes of the inputs in the order of `input_names`, None for the batch."""
        raise NotImplementedError

    def output_spec_shapes(self):
        """Shapes of the outputs in the order of `output_names`, None for the batch."""
        raise NotImplementedError

    @property
    def input_shapes(self):
        """Shapes of all inputs, None for the batch, such as [[None, 512], [None, 0]]."""
        return [list(shape) for shape in self.input_spec_shapes()]

    @property
    def input_shape(self):
        """Shape of the first input, such as [None, 512]."""
        return self.input_shapes[0]

    @property
    def output_shapes(self):
        """Shapes of all outputs, None for the batch, such as [[None, 3, 1024, 1024]]."""
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

    def lod_stage(self) -> int | None:
        """Integer part of the variable lod, which selects the active layers. None = the network does not grow."""
        if 'lod_stage' not in self.known_kwargs():
            return None
        return int(np.floor(self.get_var('lod')))

    def get_output_for(self, *in_expr, return_as_list=False, **dynamic_kwargs):
        """Evaluate on tensors. An input of None stands for zeros, if another one determines the batch size."""
        out = self(*in_expr, **dynamic_kwargs)
        return [*out] if return_as_list and isinstance(out, (tuple, list)) else [out] if return_as_list else out

    def _fill_missing(self, inputs, zeros):
        """Replace None among the inputs by zeros."""
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
            minibatch_size=None, num_gpus=1, assume_frozen=False, **dynamic_kwargs) -> Any:
        """Evaluate on numpy arrays.

        Args:
            in_arrays:        One array per input, all with the same first axis. None = zeros.
            input_transform:  dict(func=f, **kwargs): inputs = f(*inputs, **kwargs) comes first. None = no transform.
            output_transform: dict(func=f, **kwargs): outputs = f(*outputs, **kwargs) comes last. None = no transform.
            return_as_list:   Return a list even for one output.
            print_progress:   Show a progress bar on a terminal, or print lines elsewhere?
            minibatch_size:   Number of items to compute at a time. None = all.
            num_gpus:         Has no effect; the original had this argument. TensorFlow chooses the device.
            assume_frozen:    True = use constant weights from the first call on, which takes some seconds to prepare
                              on a CPU; False = only once it pays off, and if `may_freeze` is set
                              (dnnlib/tflib/frozen.py).
            dynamic_kwargs:   Settings for this call: truncation_psi, randomize_noise, is_validation, ...

        Returns:
            Array [N, ...], or a list of arrays if there are several outputs.

        Raises:
            ValueError: An argument is unknown, or an input has the wrong shape.
        """
        dynamic_kwargs = self._without_foreign(dynamic_kwargs)
        self.check_kwargs(dynamic_kwargs, self.known_call_kwargs())
        if minibatch_size is not None and minibatch_size < 1:
            raise ValueError(f'{self.name}: expected a minibatch_size above 0, or None; received {minibatch_size}')
        arrays = [None if x is None else np.asarray(x, np.float32) for x in in_arrays]
        arrays = self._fill_missing(arrays, lambda shape: np.zeros(shape, np.float32))
        num_items = len(arrays[0])
        if not input_transform:
            for name, array, shape in zip(self.input_names, arrays, self.input_shapes, strict=True):
                expected = [num_items, *shape[1:]]
                if list(array.shape) != expected:
                    raise ValueError(f'{self.name}: expected {name} of shape {expected}, received {list(array.shape)}')
        stage = self.lod_stage()
        if stage is not None:
            dynamic_kwargs = {'lod_stage': stage, **dynamic_kwargs}
        function, tensors = self._function_for(arrays, input_transform, output_transform, dynamic_kwargs)
        if num_items == 0:  # Some kernels of TensorFlow reject an empty batch, so compute one item to get the shapes.
            arrays = [np.zeros([1, *a.shape[1:]], np.float32) for a in arrays]
        step = minibatch_size or len(arrays[0])
        freeze = True if assume_frozen else None if self.may_freeze else False
        for each in self._net.functions.values():  # Release constants that have become stale in any of the functions.
            each.refresh()
        minibatches = []
        with ProgressBar(self.name, len(arrays[0]), 'item', num_lines=10, enabled=print_progress) as progress:
            for begin in range(0, len(arrays[0]), step):
                outputs = function([tf.constant(a[begin:begin + step]) for a in arrays], tensors, freeze)
                minibatches.append([x.numpy() for x in outputs])
                progress.update(len(minibatches[-1][0]))
        outputs = [np.concatenate(parts)[:num_items] for parts in zip(*minibatches, strict=True)]
        return outputs if return_as_list or len(outputs) > 1 else outputs[0]

    def _without_foreign(self, kwargs):
        """`kwargs` without those of other components of the same network, and those that only the original had.

        Raises:
            ValueError: An argument of the original has a meaning, but another way of giving it.
        """
        for name in kwargs:
            if _FORMER_ARGUMENTS.get(name):
                raise ValueError(f'{type(self).__name__}: {name} does not exist here. {_FORMER_ARGUMENTS[name]}')
        ignored = {name for name in kwargs if name in self._net.owner_settings or name in _FORMER_ARGUMENTS}
        ignored -= self.known_call_kwargs()
        key = (type(self).__name__, *sorted(ignored))
        if ignored and key not in _noted:
            _noted.add(key)
            print(f'Note: {type(self).__name__} has no use for {", ".join(key[1:])}: ignored.')
        return {name: value for name, value in kwargs.items() if name not in ignored}

    def _function_for(self, arrays, input_transform, output_transform, dynamic_kwargs):
        """Return the FreezableFunction for these options, and the options that are passed to it as tensors."""
        # Numbers are passed as tensors: an animation of truncation_psi must not retrace for every frame. The exception
        # is a truncation_psi of exactly 1, which means that W stays as it is, to the last bit.
        tensors = {key: tf.constant(value, tf.float32) for key, value in dynamic_kwargs.items()
                   if isinstance(value, (float, np.floating)) and not (key in _EXACT_AT_1 and value == 1)}
        static = {key: value for key, value in dynamic_kwargs.items() if key not in tensors}
        shapes = tuple(a.shape[1:] for a in arrays)
        # The device is part of the key, because a function that was traced for a GPU may not run on a CPU.
        key = _hashable([shapes, input_transform, output_transform, sorted(tensors), static, tf.constant(0.0).device])
        if key not in self._net.functions:
            def evaluate(inputs, tensors):
                if input_transform:
                    inputs = self._fill_missing(_apply_transform(input_transform, inputs), tf.zeros)
                outputs = self._call(*inputs, **static, **tensors)
                outputs = [*outputs] if isinstance(outputs, (tuple, list)) else [outputs]
                return _apply_transform(output_transform, outputs) if output_transform else outputs
            inputs_spec = [tf.TensorSpec([None, *shape], tf.float32) for shape in shapes]
            tensors_spec = {k: tf.TensorSpec([], tf.float32) for k in tensors}
            function = tf.function(evaluate, input_signature=[inputs_spec, tensors_spec], autograph=False)
            self._net.functions[key] = FreezableFunction(function, self.named_variables(trainable=True).values())
        return self._net.functions[key], tensors

    # ---- Printing ----

    def list_layers(self):
        """List (scope, number of parameters, output shape, weight shape) of all layers, in the order of computation."""
        specs = [tf.TensorSpec(shape, tf.float32) for shape in self.input_shapes]
        with record_layers() as rows:
            def evaluate(*inputs):
                rows.clear()  # TensorFlow may trace a function more than once.
                return self(*inputs)
            tf.function(evaluate, autograph=False).get_concrete_function(*specs)
        return rows

    def print_layers(self, title=None, hide_layers_with_no_params=False):
        """Print a table of all layers in the format of the original.

        Args:
            title:                      Title of the first column. None = name of the network.
            hide_layers_with_no_params: Omit layers without trainable parameters.
        """
        rows = [[title or self.name, 'Params', 'OutputShape', 'WeightShape'], ['---'] * 4]
        for scope, params, shape, weight_shape in self.list_layers():
            if params or not hide_layers_with_no_params:
                rows.append([scope, str(params) if params else '-', _shape_text(shape),
                             _shape_text(weight_shape) if weight_shape else '-'])
        total = sum(int(np.prod(var.shape)) for var in self.named_variables(trainable=True).values())
        rows += [['---'] * 4, ['Total', str(total), '', '']]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        print()
        for row in rows:
            print('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
        print()


# Settings for which a value of exactly 1 means that nothing is computed.
_EXACT_AT_1 = {'truncation_psi', 'truncation_psi_val'}


def _hashable(value):
    """Convert options (nested plain values, arrays, functions) to a key that is equal for equal options."""
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, (np.ndarray, tf.Tensor)):
        array = np.asarray(value)
        return array.shape, array.dtype.str, array.tobytes()
    return value if value is None or isinstance(value, (str, int, float, bool)) else id(value)


def _apply_transform(transform, tensors):
    kwargs = dict(transform)
    out = kwargs.pop('func')(*tensors, **kwargs)
    return [*out] if isinstance(out, (tuple, list)) else [out]


# ---- Recording for print_layers: while a recording is active, every layer adds a row to it ----

_recording = None


@contextlib.contextmanager
def record_layers():
    """Collect the rows that `record_layer` adds inside the with-block."""
    global _recording
    assert _recording is None
    _recording = SimpleNamespace(rows=[], prefix='')
    try:
        yield _recording.rows
    finally:
        _recording = None


@contextlib.contextmanager
def layer_prefix(prefix: str):
    """Rows added inside the with-block belong to the component of this name."""
    if _recording is None:
        yield
        return
    outer, _recording.prefix = _recording.prefix, f'{_recording.prefix}{prefix}/'
    try:
        yield
    finally:
        _recording.prefix = outer


def record_layer(scope: str, output_shape, params: int = 0, weight_shape=None):
    """Add a row to the active recording, if any. `output_shape` is in the layout that users see, [N, C, H, W]."""
    if _recording is not None:
        row = (_recording.prefix + scope, params, tuple(output_shape), weight_shape and tuple(weight_shape))
        _recording.rows.append(row)


# ---- Outputs of the layers, for figures ----

_captured: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar('captured', default=None)


@contextlib.contextmanager
def capture_outputs():
    """Collect the outputs of all layers that are called inside the with-block: a dict of scope -> tensor.

    Images are in the internal layout. Inside a tf.function the tensors are those of its graph, and it can return them.
    """
    outputs = {}
    token = _captured.set(outputs)
    try:
        yield outputs
    finally:
        _captured.reset(token)


def capture_output(scope: str, x):
    """Add the output of a layer to those that are being collected, if any."""
    outputs = _captured.get()
    if outputs is not None:
        outputs[scope] = x


def _shape_text(shape):
    if len(shape) == 1:
        return f'({"?" if shape[0] is None else shape[0]},)'
    return '(' + ', '.join('?' if size is None else str(size) for size in shape) + ')'
