"""The base class of all networks: a Keras model with the methods of the original's Network."""

import contextlib
import copyreg
from collections import OrderedDict
from typing import Any

import numpy as np
import tensorflow as tf

from dnnlib.progress import ProgressBar
from dnnlib.tflib.evaluation import function_for
from dnnlib.tflib.keras_network import KerasNetwork
from dnnlib.tflib.layer_list import layer_table
from dnnlib.tflib.tfutil import tf_variable
from dnnlib.tflib.variables import NetworkVariable, skip_initializers
from dnnlib.util import get_obj_by_name

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


class Network(KerasNetwork):
    """Base class of all networks, with the methods of the original's Network. KerasNetwork says how one is written."""

    # Of a discriminator: strength of the augmentation it was trained with last, kept in pickles. None = not known.
    augment_p: float | None = None

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

    # ---- Shapes ----

    @property
    def num_inputs(self):
        return len(self.input_names)

    @property
    def num_outputs(self):
        return len(self.output_names)

    # ---- Evaluation ----

    def get_output_for(self, *in_expr, return_as_list=False, **dynamic_kwargs):
        """Evaluate on tensors. An input of None stands for zeros, if another one determines the batch size."""
        out = self(*in_expr, **dynamic_kwargs)
        return [*out] if return_as_list and isinstance(out, (tuple, list)) else [out] if return_as_list else out

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
        function, tensors = function_for(self, arrays, input_transform, output_transform, dynamic_kwargs)
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

    # ---- Printing ----

    def print_layers(self, title=None, hide_layers_with_no_params=False):
        """Print a table of all layers in the format of the original.

        Args:
            title:                      Title of the first column. None = name of the network.
            hide_layers_with_no_params: Omit layers without trainable parameters.
        """
        total = sum(int(np.prod(var.shape)) for var in self.named_variables(trainable=True).values())
        print(layer_table(title or self.name, self.list_layers(), total, hide_layers_with_no_params))
