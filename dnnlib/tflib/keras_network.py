"""The networks as Keras models: their settings, layers and shapes, and what Keras and TensorFlow call and save."""

from collections import OrderedDict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnlib.tflib.call_dtype import calling_with_dtype
from dnnlib.tflib.layer_list import record_layers
from dnnlib.tflib.random import Random
from dnnlib.tflib.tfutil import is_keras_tensor, tf_variable
from dnnlib.tflib.variables import create_variable
from dnnlib.util import EasyDict


def register(cls: type) -> None:
    """Make a class of networks or layers known to Keras, so that `keras.models.load_model` finds it by itself.

    The name includes the module: StyleGAN and StyleGAN2 both have a G_mapping.
    """
    name = f'{cls.__module__.rpartition(".")[2]}.{cls.__name__}'
    keras.saving.register_keras_serializable('stylegan2', name)(cls)


class KerasNetwork(keras.Model):
    """A network that is built by its constructor, from the settings of its class and the arguments given.

    A subclass lists its arguments with their defaults in `settings`, creates variables and layers in `build` with
    `add_var` and `add_layer`, and computes in `compute`, where `self.settings_for(kwargs)` merges the arguments of that
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
    input_names = ()              # Names of the positional arguments of `compute`.
    output_names = ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        register(cls)

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

    # ---- For the subclasses ----

    def compute(self, *inputs: tf.Tensor, **dynamic_kwargs) -> Any:
        """Tensors in the order of `input_names`, and settings for this call -> the outputs."""
        raise NotImplementedError

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
        setattr(self, f'var_{name}', var)  # TensorFlow finds variables that are attributes, to save them.
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
    def static_kwargs(self) -> EasyDict:
        """The arguments that the network was created with. A component has those of the whole network."""
        return EasyDict(self._net.static_kwargs)

    def _own_static_kwargs(self):
        """`static_kwargs` without those that only the network it belongs to understands, if this is a component."""
        known = self.known_kwargs()
        return {key: value for key, value in self._net.static_kwargs.items() if key in known}

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

    def lod_stage(self) -> int | None:
        """Integer part of the variable lod, which selects the active layers. None = the network does not grow."""
        if 'lod_stage' not in self.known_kwargs():
            return None
        return int(np.floor(tf_variable(self._net.own_vars['lod']).numpy()))

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

    def list_layers(self):
        """List (scope, number of parameters, output shape, weight shape) of all layers, in the order of computation."""
        specs = [tf.TensorSpec(shape, tf.float32) for shape in self.input_shapes]
        with record_layers() as rows:
            def evaluate(*inputs):
                rows.clear()  # TensorFlow may trace a function more than once.
                return self(*inputs)
            tf.function(evaluate, autograph=False).get_concrete_function(*specs)
        return rows

    def summary(self, *args, **kwargs):
        """Print Keras' table of layers, with the shapes of their outputs."""
        self._tell_layers_their_shapes()
        return super().summary(*args, **kwargs)

    def _tell_layers_their_shapes(self):
        shapes = {scope: shape for scope, _params, shape, _weight in self.list_layers()} if self._net.layers else {}
        for scope, layer in self._net.layers.items():
            layer.listed = SimpleNamespace(shape=shapes.get(scope))
        for component in self.components.values():
            component._tell_layers_their_shapes()

    # ---- Calls ----

    # AutoGraph has nothing to convert in networks, and would warn where it does not find the source.
    @tf.autograph.experimental.do_not_convert
    def __call__(self, *inputs, training=None, **kwargs):
        """Evaluate on tensors, or compose a Keras model from symbolic tensors.

        Args:
            inputs:   One tensor per input, or a list of them. Those that are missing or None are zeros, if another one
                      determines the size of the batch.
            training: True sets is_training, where the network has that setting. Keras' own methods give this argument.
            kwargs:   Settings for this call; rng = a dnnlib.tflib.Random.
        """
        if len(inputs) == 1 and isinstance(inputs[0], (list, tuple)):
            inputs = tuple(inputs[0])
        known = self.known_call_kwargs()
        if training is True and 'is_training' in known:
            kwargs = {'is_training': True, **kwargs}
        if not self._net.is_component:  # Arguments of a component are checked by the network it belongs to.
            self.check_kwargs(kwargs, known | {'rng'})
        # Keras' own __call__ is needed only to compose models. It rejects arguments that mix tensors and numbers.
        if any(is_keras_tensor(x) for x in inputs):
            given = [x for x in inputs if x is not None]
            return super().__call__(given[0] if len(given) == 1 else given, **kwargs)
        return self._evaluate(*inputs, **kwargs)

    def call(self, inputs, training=None, **kwargs):
        """What Keras traces when models are composed. Networks compute in `compute`."""
        return self._evaluate(*(inputs if isinstance(inputs, (list, tuple)) else [inputs]), **kwargs)

    @tf.autograph.experimental.do_not_convert
    def _evaluate(self, *inputs, **kwargs):
        with calling_with_dtype(kwargs.get('dtype', 'float32')):
            return self.compute(*self._fill_missing(inputs), **kwargs)

    def _fill_missing(self, inputs: Sequence[Any], zeros: Any = tf.zeros) -> list[Any]:
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

    # ---- Files of Keras and TensorFlow ----

    def get_config(self):
        """The settings of this network alone, as JSON has them."""
        return {'name': self.name, **{key: _plain(value) for key, value in self._own_static_kwargs().items()}}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**{name: value for name, value in config.items() if name not in ('trainable', 'dtype')})

    # The constructor builds the network. Keras would build it from its file for the second time.
    def get_build_config(self):
        return None

    def build_from_config(self, config):
        pass

    def _signature(self) -> list[tf.TensorSpec]:
        """The inputs of saved functions. Labels of an unconditional network, which have no numbers, are left out."""
        return [tf.TensorSpec(shape, tf.float32, name)
                for name, shape in zip(self.input_names, self.input_shapes, strict=True) if 0 not in shape]

    def _function_to_save(self):
        """tf.function of the inputs. It has the network's settings and stage, and draws new noise at each call."""
        stage = self.lod_stage()
        settings = {} if stage is None else {'lod_stage': stage}

        def evaluate(*inputs):
            # Operations of their own draw the noise: the state of a generator would be in the file.
            return self._evaluate(*inputs, rng=Random(tf.random), **settings)
        return tf.function(evaluate, input_signature=self._signature(), autograph=False)

    def _trackable_children(self, save_type='checkpoint', **kwargs):
        """What TensorFlow stores: the variables by their layers, and for a SavedModel the function of the network.

        `tf.saved_model.load` gives an object that can be called. What Keras itself would add for a SavedModel depends
        on its version and on how the network has been called.
        """
        children = super()._trackable_children('checkpoint', **kwargs)
        if save_type != 'savedmodel':
            return children
        # Without predict_function and others that Keras keeps after the first call of its methods.
        children = {name: child for name, child in children.items() if not name.endswith('_function')}
        function = self._function_to_save()

        def serving_default(*inputs):
            outputs = function(*inputs)
            outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
            return dict(zip(self.output_names, outputs, strict=True))
        signature = tf.function(serving_default, input_signature=self._signature(), autograph=False)
        return {**children, '__call__': function, '_default_save_signature': signature,
                'generator': tf.random.get_global_generator()}  # Models that contain this network draw from it.

    def export(self, filepath, format='tf_saved_model', input_signature=None, **kwargs):
        """Write a SavedModel with the function `serve`, as Keras' `export` does; no call is needed before.

        Args:
            filepath:        Folder to make.
            format:          'tf_saved_model'.
            input_signature: List of tf.TensorSpec. None = the inputs for any batch size, labels only if there are any.
            kwargs:          Other arguments of Keras' `export`.

        Raises:
            ValueError: It is another format.
        """
        if format != 'tf_saved_model':
            raise ValueError(f"{self.name}: expected the format 'tf_saved_model', received {format!r}; "
                             'run_generator.py export writes other formats')
        archive: Any = keras.export.ExportArchive()
        archive.track(self)
        archive.add_endpoint('serve', self._function_to_save(), input_signature or self._signature())
        archive.write_out(filepath, **kwargs)


def _plain(value):
    """A setting as JSON has it: numbers and lists of Python instead of NumPy's and tuples."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
