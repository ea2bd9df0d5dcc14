"""Hostile pickles: code to run, nonsense, and bombs. Each entry of the tables is a whole file.

The files of FOREIGN_CODE are refused by the name of what they ask for. Most of them would leave a file called RAN
behind if `pickle.load` read them.
"""

import os
import pickle
import struct

import numpy as np


def pickled_state(**changes):
    """A pickled network with changed entries of its state; None = left out."""
    state = {'version': 4, 'name': 'G', 'static_kwargs': {}, 'components': {}, 'build_module_src': '',
             'build_func_name': 'f',
             'variables': [('lod', np.float32(1))], **changes}
    state = {key: value for key, value in state.items() if value is not None}
    return b'\x80\x04\x8c\x14dnnlib.tflib.network\x8c\x07Network\x93)\x81' + pickle.dumps(state, 4)[2:-1] + b'b.'


def short(text):
    data = text.encode()
    return b'\x8c' + bytes([len(data)]) + data


class Calls:
    """Is pickled as a call of `function(*args)`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


COMMAND = 'touch RAN'
SYSTEM = f'{os.system.__module__}.system'  # posix.system, nt.system
ARRAY = b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R'
DTYPE = b'cnumpy\ndtype\n\x8c\x02f4K\x00K\x01\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'

FOREIGN_CODE = {  # Bytes, and the name that the message must contain.
    'GLOBAL':             (b'cos\nsystem\n(X\x09\x00\x00\x00touch RANtR.', 'os.system'),
    'STACK_GLOBAL':       (b'\x80\x04' + short('os') + short('system') + b'\x93' + short(COMMAND) + b'\x85R.',
                           'os.system'),
    'INST':               (b"(S'touch RAN'\nios\nsystem\n.", 'os.system'),
    'OBJ':                (b"(cos\nsystem\nS'touch RAN'\no.", 'os.system'),
    'NEWOBJ':             (b'\x80\x02csubprocess\nPopen\nX\x09\x00\x00\x00touch RAN\x85\x81.', 'subprocess.Popen'),
    'NEWOBJ_EX':          (b'\x80\x04csubprocess\nPopen\nX\x09\x00\x00\x00touch RAN\x85}\x92.', 'subprocess.Popen'),
    'REDUCE of pickle':   (pickle.dumps(Calls(os.system, COMMAND)), SYSTEM),
    'eval':               (pickle.dumps(Calls(eval, 'open("RAN", "w")')), 'builtins.eval'),
    'eval, protocol 2':   (pickle.dumps(Calls(eval, 'open("RAN", "w")'), 2), '__builtin__.eval'),
    'exec':               (pickle.dumps(Calls(exec, 'open("RAN", "w")')), 'builtins.exec'),
    'getattr chain':      (pickle.dumps(Calls(getattr, Calls(__import__, 'os'), 'system')), 'builtins.getattr'),
    'dotted name':        (b'\x80\x04' + short('numpy') + short('ndarray.__init__.__globals__') + b'\x93.',
                           'numpy.ndarray.__init__'),
    'name with dots':     (b'\x80\x04' + short('dnnlib.tflib') + short('network.Network.__init__') + b'\x93.',
                           'Network.__init__'),
    'copyreg':            (b'ccopyreg\n_reconstructor\n(cos\nsystem\nNNtR.', 'copyreg._reconstructor'),
    'other numpy':        (b'cnumpy\nload\n.', 'numpy.load'),
    'numpy.testing':      (b'cnumpy.testing._private.utils\nrunstring\n.', 'runstring'),
    'other dnnlib':       (b'cdnnlib.util\nopen_url\n.', 'dnnlib.util.open_url'),
    'in a network':       (pickled_state(static_kwargs={'a': [Calls(os.system, COMMAND)]}), SYSTEM),
    'as network state':   (pickled_state(variables=Calls(os.system, COMMAND)), SYSTEM),
    'as a variable':      (pickled_state(variables=[('lod', Calls(os.system, COMMAND))]), SYSTEM),
    'behind a POP':       (b'cos\nsystem\n(X\x09\x00\x00\x00touch RANtR0N.', 'os.system'),
    'line break in name': (b'\x80\x04' + short('os\n') + short('system\x1b[2J') + b'\x93.', r"'os\n.system\x1b[2J'"),
    'PERSID':             (b'Pos.system\n.', 'PERSID'),
    'BINPERSID':          (b'\x80\x02NQ.', 'BINPERSID'),
    'EXT1':               (b'\x80\x02\x82\xf0.', 'EXT1'),
    'EXT2':               (b'\x80\x02\x83\xf0\x00.', 'EXT2'),
    'EXT4':               (b'\x80\x02\x84\xf0\x00\x00\x00.', 'EXT4'),
    'out-of-band buffer': (b'\x80\x05\x97.', 'NEXT_BUFFER'),
}

NONSENSE = {  # Allowed names and instructions, used in ways that no writer uses.
    'class as result':            b'cdnnlib.tflib.network\nNetwork\n.',
    'function as result':         b'cnumpy.core.multiarray\n_reconstruct\n.',
    'class in a list':            b'](cnumpy\ndtype\ne.',
    'bare network':               b'cdnnlib.tflib.network\nNetwork\n)R.',
    'network with arguments':     b'cdnnlib.tflib.network\nNetwork\nN\x85R.',
    'state of a class':           b'cdnnlib.tflib.network\nNetwork\n}b.',
    'state of a function':        b'cnumpy.core.multiarray\n_reconstruct\nN}\x86b.',
    'state of a list':            b']}b.',
    'state of an EasyDict':       b'cdnnlib.util\nEasyDict\n)R}' + short('a') + b'Nsb.',
    'call of a string':           b'\x80\x04' + short('os.system') + b')R.',
    'call of an item':            b'cdnnlib.util\nEasyDict\n)R' + short('extend') + b'cnumpy\ndtype\ns(K\x01e.',
    'numpy.ndarray called':       b'cnumpy\nndarray\nK\x05\x85R.',
    'array of another class':     b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85C\x01b\x87R.',
    'array state is a dict':      ARRAY + b'}b.',
    'array state too short':      ARRAY + b'(K\x01tb.',
    'array type is a string':     ARRAY + b'(K\x01K\x01\x85\x8c\x02f4\x89C\x04abcdtb.',
    'array with negative shape':  ARRAY + b'(K\x01J\xff\xff\xff\xff\x85' + DTYPE + b'\x89C\x04abcdtb.',
    'array with shape of shapes': ARRAY + b'(K\x01K\x01\x85\x85' + DTYPE + b'\x89C\x04abcdtb.',
    'array of 100 dimensions':    ARRAY + b'(K\x01(' + 100 * b'K\x01' + b't' + DTYPE + b'\x89C\x04abcdtb.',
    'array with too few bytes':   ARRAY + b'(K\x01K\x02\x85' + DTYPE + b'\x89C\x04abcdtb.',
    'array with too many bytes':  ARRAY + b'(K\x01K\x01\x85' + DTYPE + b'\x89C\x08abcdabcdtb.',
    'array data is a list':       ARRAY + b'(K\x01K\x01\x85' + DTYPE + b'\x89](K\x01K\x02K\x03K\x04etb.',
    'scalar with too few bytes':  b'cnumpy.core.multiarray\nscalar\n' + DTYPE + b'C\x01a\x86R.',
    'scalar of objects':          b'cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n\x8c\x01O\x85RN\x86R.',
    'unknown type':               b'cnumpy\ndtype\n\x8c\x02f3K\x00K\x01\x87R.',
    'structured type':            b'cnumpy\ndtype\n](\x8c\x01a\x8c\x02f4\x86e\x85R.',
    'type with fields':           b'cnumpy\ndtype\n\x8c\x02f4\x85R(K\x03\x8c\x01<N\x8c\x01a\x85}K\x04K\x01K\x00tb.',
    'type of odd byte order':     (b'cnumpy\ndtype\n\x8c\x02f4\x85R(K\x03\x8c\x01?NNN'
                                   b'J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.'),
    'encode to another codec':    b'c_codecs\nencode\n\x8c\x01a\x8c\x03hex\x86R.',
    'encode beyond latin1':       b'c_codecs\nencode\n' + short('\u1234') + b'\x8c\x06latin1\x86R.',
    'bytes with arguments':       b'cbuiltins\nbytes\nK\x05\x85R.',
    'number as key':              b'}K\x01K\x02s.',
    'tuple as key':               b'}))s.',
    'key without value':          b'}(\x8c\x01au.',
    'append to a tuple':          b')Na.',
    'set':                        b'\x80\x04\x8f(K\x01\x90.',
    'unknown instruction':        b'\x80\x04\xff.',
    'empty stack':                b'.',
    'reduce on an empty stack':   b'R.',
    'mark without end':           b'(K\x01.',
    'end without mark':           b'K\x01t.',
    'two results':                b'K\x01K\x02.',
    'memo without entry':         b'h\x05.',
    'bad text':                   b'\x8c\x02\xff\xfe.',
    'negative length':            b'T\xff\xff\xff\xff.',
    'list within itself':         b']q\x00h\x00a.',
    'network within itself':      pickled_state()[:-1] + b'q\x63}(' + b''.join(
        short(key) + value for key, value in [('version', b'K\x04'), ('name', short('G')), ('static_kwargs', b'}'), (
            'components', b'}' + short('a') + b'h\x63s'), ('build_func_name', short('')),
            ('build_module_src', short('')),
            ('variables', b']')]) + b'ub.',
}

# Sixty lists, each of which holds the previous one twice: 2**60 items in all.
DOUBLING = b']q\x000' + b''.join(b'](h%ch%ceq%c0' % (i, i, i + 1) for i in range(60)) + b'h\x3c'

BOMBS = {  # Small files that would take much time or memory, or end the process.
    'memo of 16 GB':           b'Nr\xff\xff\xff\x7f.',
    'bytes of 2**60':          b'\x80\x04\x8e' + struct.pack('<Q', 2**60) + b'ab.',
    'bytes of 2 GB':           b'B\xff\xff\xff\x7fab.',
    'bytearray of 2**40':      b'\x80\x05\x96' + struct.pack('<Q', 2**40) + b'ab.',
    'frame of 2**60':          b'\x80\x04\x95' + struct.pack('<Q', 2**60) + b'N',
    'array of 2**80 elements': ARRAY + b'(K\x01(' + 4 * b'J\x00\x00\x10\x00' + b't' + DTYPE + b'\x89C\x04abcdtb.',
    'array of 2**80 x 0':      ARRAY + b'(K\x01(' + 4 * b'J\x00\x00\x10\x00' + b'K\x00t' + DTYPE + b'\x89C\x00tb.',
    'reconstruct 2**40':       b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n'
                               b'\x8a\x06\x00\x00\x00\x00\x00\x01\x85C\x01b\x87R(K\x01tb.',
    'same bytes many times':   b'B\x00\x00\x10\x00' + bytes(2**20) + b'q\x00' + DTYPE + b'q\x01]'
                               + 10000 * (ARRAY + b'(K\x01J\x00\x00\x04\x00\x85h\x01\x89h\x00tba') + b'.',
    'same text many times':    b'X\x00\x00\x10\x00' + 2**20 * b'a' + b'q\x00]'
                               + 10000 * (b'c_codecs\nencode\nh\x00\x8c\x06latin1\x86Ra') + b'.',
    'doubling list':           DOUBLING + b'.',
    'doubling version':        pickled_state(version=7).replace(b'K\x07', DOUBLING),
    'doubling network':        pickled_state(static_kwargs={'a': 200}).replace(b'K\xc8', DOUBLING),
    'deep list':               100000 * b']' + 99999 * b'a' + b'.',
    'deep tuple':              b')' + 100000 * b'\x85' + b'.',
    'deep tuple as key':       b'})' + 100000 * b'\x85' + b'Ns.',
    'deep version':            pickled_state(version=7).replace(b'K\x07', b')' + 100000 * b'\x85'),
    'colliding memo':          b'N' + b''.join(b'p%d\n' % (k * (2**61 - 1)) for k in range(1, 200000)) + b'.',
    'many instructions':       600_000 * b'N0' + b'N.',
    'checksum of the same weights again and again':
                               pickled_state(sha256='0' * 64, variables=200)[:-2].replace(
                                   b'K\xc8', b'](B\x00\x00\x10\x00' + bytes(2**20) + b'q\x630' + DTYPE + b'q\x620'
                                   + short('w') + ARRAY + b'(K\x01J\x00\x00\x04\x00\x85h\x62\x89h\x63tb\x86q\x61'
                                   + 20000 * b'h\x61' + b'e') + b'b.',
    'checksum of the same text again and again':
                               pickled_state(sha256='0' * 64, static_kwargs={'a': 200})[:-2].replace(
                                   b'K\xc8', b'](X\x00\x00\x10\x00' + 2**20 * b'a' + b'q\x61' + 20000 * b'h\x61'
                                   + b'e') + b'b.',
    'pairs again and again':   b'](' + short('a') + b'Neq\x010](' + 20000 * b'h\x01' + b'eq\x000'
                               + 20000 * b'ccollections\nOrderedDict\nh\x00\x85R0' + b'N.',
    'long number':             b'L' + 1_000_000 * b'9' + b'L\n.',
}
